//! The underlay: the questions to the kernel about what is not Heliograph's. On which segment is a next hop, and which
//! interface has an address of this node?
//!
//! [`Underlay`] keeps the answers. A hint makes only those answers stale that it can concern.

pub mod linux;

pub use linux::Linux;

use crate::netlink::hint::{ForeignRoute, Hint};
use crate::netlink::{KernelError, KernelResult};
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The segment of a next hop, as the kernel's foreign routes determine it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// On a link of this node, without a gateway.
    Direct {
        /// The index of the interface.
        oif: u32,
        /// The name of the interface.
        name: String,
        /// The source address that the kernel selects.
        source: IpAddr,
    },
    /// Behind a gateway, hence on another segment.
    Routed {
        /// The gateway.
        gateway: IpAddr,
        /// The index of the interface towards the gateway.
        oif: u32,
        /// The name of the interface.
        name: String,
        /// The source address that the kernel selects.
        source: IpAddr,
    },
    /// The kernel has no route to it.
    Unreachable {
        /// The error that the kernel returned.
        error: String,
    },
    /// An address of this node itself.
    Local,
}

impl Segment {
    /// Returns the index of the interface towards the next hop.
    fn interface(&self) -> Option<u32> {
        match self {
            Segment::Direct { oif, .. } | Segment::Routed { oif, .. } => Some(*oif),
            Segment::Unreachable { .. } | Segment::Local => None,
        }
    }
}

/// The interface that has one of this node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The index of the interface.
    pub index: u32,
    /// The name of the interface.
    pub name: String,
    /// The MTU of the interface in bytes.
    pub mtu: u32,
}

/// The questions, which the kernel answers.
pub trait Questions {
    /// Looks up the segments of next hops in the kernel's routes, ignoring Heliograph's own. The results are in the same
    /// order.
    fn segments(&mut self, next_hops: &[IpAddr]) -> Vec<KernelResult<Segment>>;

    /// Looks up the interface that has an address of this node.
    fn interface(&mut self, address: IpAddr) -> KernelResult<Interface>;
}

/// An answer, which may be stale.
#[derive(Debug)]
struct Answer<T> {
    /// `None`: there is no answer yet.
    value: Option<T>,
    stale: bool,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self { value: None, stale: true }
    }
}

/// The answers to the questions of the last [`Underlay::look_up`] that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The next hops whose segment changed.
    pub next_hops: Vec<IpAddr>,
    /// The addresses whose interface changed.
    pub addresses: Vec<IpAddr>,
}

/// The answers to the questions that are asked.
#[derive(Debug)]
pub struct Underlay<Q> {
    questions: Q,
    segments: BTreeMap<IpAddr, Answer<Segment>>,
    interfaces: BTreeMap<IpAddr, Answer<Interface>>,
    /// Set if an answer is stale.
    stale: bool,
    problems: Vec<KernelError>,
}

impl<Q: Questions> Underlay<Q> {
    /// Makes an underlay of which nothing is asked yet.
    pub fn new(questions: Q) -> Self {
        Self {
            questions,
            segments: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            stale: false,
            problems: Vec::new(),
        }
    }

    /// Asks for the segment of a next hop, at the next [`Underlay::look_up`] and again after hints that may concern it.
    pub fn add_next_hop(&mut self, next_hop: IpAddr) {
        self.stale |= self.segments.entry(next_hop).or_default().stale;
    }

    /// Stops asking for the segment of a next hop.
    pub fn remove_next_hop(&mut self, next_hop: IpAddr) {
        self.segments.remove(&next_hop);
    }

    /// Sets the addresses of this node whose interfaces are asked for.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.interfaces.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.stale |= self.interfaces.entry(*address).or_default().stale;
        }
    }

    /// Returns the segment of a next hop. `None`: it has not been looked up yet.
    pub fn segment(&self, next_hop: IpAddr) -> Option<&Segment> {
        self.segments.get(&next_hop)?.value.as_ref()
    }

    /// Returns the interface that has an address of this node. `None`: there is none, or it has not been looked up yet.
    pub fn interface(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces.get(&address)?.value.as_ref()
    }

    /// Returns whether an answer is stale: then [`Underlay::look_up`] has to be called.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Returns the errors of the last look-ups.
    pub fn problems(&self) -> &[KernelError] {
        &self.problems
    }

    /// Makes the answers stale that the subject of a hint can concern. Returns whether there are any.
    pub fn invalidate(&mut self, hint: &Hint) -> bool {
        let before = std::mem::take(&mut self.stale);
        match *hint {
            Hint::Everything | Hint::Periodic | Hint::Rule => {
                self.stale_segments(|_, _| true);
                self.stale_interfaces(|_, _| true);
            }
            Hint::ForeignRoute(ForeignRoute { prefix, .. }) => self.stale_within(prefix),
            Hint::Link { index, .. } => {
                // A link that appears or comes up may also be the way to what was unreachable.
                self.stale_segments(|_, segment| segment.interface().is_none_or(|oif| oif == index));
                self.stale_interfaces(|_, interface| interface.index == index);
            }
            Hint::Address { index, address } => {
                self.stale_segments(|next_hop, segment| {
                    next_hop == address || segment.interface().is_none_or(|oif| oif == index)
                });
                self.stale_interfaces(|own, interface| own == address || interface.index == index);
            }
            Hint::OwnRoute { .. } | Hint::Nftables { .. } => {}
        }
        let concerned = self.stale;
        self.stale |= before;
        concerned
    }

    /// Makes all segments of next hops in a network stale.
    fn stale_within(&mut self, network: IpNetwork) {
        for (_, answer) in self.segments.range_mut(network.network()..=network.broadcast()) {
            answer.stale = true;
            self.stale = true;
        }
    }

    /// Makes the segments stale that `concerned` selects, and all without an answer.
    fn stale_segments(&mut self, concerned: impl Fn(IpAddr, &Segment) -> bool) {
        for (next_hop, answer) in &mut self.segments {
            if answer.value.as_ref().is_none_or(|segment| concerned(*next_hop, segment)) {
                answer.stale = true;
                self.stale = true;
            }
        }
    }

    /// Makes the interfaces stale that `concerned` selects, and all without an answer.
    fn stale_interfaces(&mut self, concerned: impl Fn(IpAddr, &Interface) -> bool) {
        for (address, answer) in &mut self.interfaces {
            if answer.value.as_ref().is_none_or(|interface| concerned(*address, interface)) {
                answer.stale = true;
                self.stale = true;
            }
        }
    }

    /// Asks the questions whose answers are stale. Returns what changed.
    pub fn look_up(&mut self) -> Changed {
        let mut changed = Changed::default();
        if !std::mem::take(&mut self.stale) {
            return changed;
        }
        self.problems.clear();
        let stale = |(address, answer): (&IpAddr, &Answer<Segment>)| answer.stale.then_some(*address);
        let next_hops: Vec<IpAddr> = self.segments.iter().filter_map(stale).collect();
        let results = self.questions.segments(&next_hops);
        for (next_hop, result) in next_hops.into_iter().zip(results) {
            let Some(answer) = self.segments.get_mut(&next_hop) else { continue };
            match result {
                Ok(segment) => {
                    answer.stale = false;
                    if answer.value.as_ref() != Some(&segment) {
                        answer.value = Some(segment);
                        changed.next_hops.push(next_hop);
                    }
                }
                // The former answer stays: routes must not be deleted because the kernel is short of memory.
                Err(error) => fail(&mut self.problems, &mut self.stale, error),
            }
        }
        for (address, answer) in self.interfaces.iter_mut().filter(|(_, answer)| answer.stale) {
            match self.questions.interface(*address) {
                Ok(interface) => {
                    answer.stale = false;
                    if answer.value.as_ref() != Some(&interface) {
                        answer.value = Some(interface);
                        changed.addresses.push(*address);
                    }
                }
                Err(error) => {
                    if answer.value.take().is_some() {
                        changed.addresses.push(*address);
                    }
                    fail(&mut self.problems, &mut self.stale, error);
                }
            }
        }
        changed
    }
}

/// Records a failed look-up, which is repeated at the next one.
fn fail(problems: &mut Vec<KernelError>, stale: &mut bool, error: KernelError) {
    *stale = true;
    if !problems.contains(&error) {
        problems.push(error);
    }
}

#[cfg(test)]
mod tests;
