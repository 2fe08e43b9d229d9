//! The best routes that BGP learned, with the next hops that they use.
//!
//! A route is a few octets here: its next hop and its peer are numbers of entries that many routes share. What depends on
//! a next hop only (its segment, its route in the kernel) stands once, however many routes use it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

use crate::dataplane::{Hop, Route};
use crate::plan::SegmentVerdict;

/// The number of an entry of a [`Shared`].
type Id = u32;

/// One learned route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    next_hop: Id,
    peer: Id,
    /// A node advertised it, and its next hop is no neighbor outside the cluster.
    from_node: bool,
    /// It is also to a network of the cluster: then its next hop is a node.
    of_cluster: bool,
    /// It must not be installed, although its next hop is reachable.
    rejected: bool,
}

/// The use of a next hop by routes, and its resolution.
#[derive(Debug)]
pub struct NextHop {
    /// The address.
    pub address: IpAddr,
    /// The numbers of routes, by family ([`index_of`]).
    routes: [usize; 2],
    /// The numbers of those that must not be installed.
    rejected: [usize; 2],
    /// The number of routes that a node advertised.
    from_nodes: usize,
    /// The number of those that are to a network of the cluster.
    of_cluster: usize,
    /// The verdict on it. `None`: not resolved yet.
    pub verdict: Option<SegmentVerdict>,
    /// The next hop to install, and the route that all prefixes behind it share. `None`: it is not reachable.
    pub hop: Option<(Hop, Arc<Route>)>,
}

impl NextHop {
    fn new(address: IpAddr) -> Self {
        Self {
            address,
            routes: [0; 2],
            rejected: [0; 2],
            from_nodes: 0,
            of_cluster: 0,
            verdict: None,
            hop: None,
        }
    }

    /// Returns whether routes of nodes to networks of the cluster have this next hop: it is a node, although the intent may
    /// not contain it.
    pub fn is_inferred_node(&self) -> bool {
        self.of_cluster > 0
    }

    /// Returns the numbers of installable and of rejected routes of a family.
    pub fn counts(&self, family: IpFamily) -> (usize, usize) {
        let index = index_of(family);
        (self.routes[index] - self.rejected[index], self.rejected[index])
    }
}

/// Returns the index of a family in arrays by family.
fn index_of(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 0,
        IpFamily::V6 => 1,
    }
}

/// The properties of a route by which it counts as one of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A node advertised it, and its next hop is no neighbor outside the cluster.
    pub from_node: bool,
    /// It is also to a network of the cluster.
    pub of_cluster: bool,
}

/// The learned routes, and the entries that they share.
#[derive(Debug, Default)]
pub struct LearnedRoutes {
    routes: HashMap<IpNetwork, Learned>,
    next_hops: Shared<NextHop>,
    peers: Shared<Peer>,
    /// The next hops whose resolution is to be checked: new ones, and those that have become inferred nodes or no longer are.
    unresolved: BTreeSet<IpAddr>,
    /// The next hops that no route uses any more.
    unused: BTreeSet<IpAddr>,
    /// Other next hops have routes of nodes, since this was taken.
    nodes_changed: bool,
}

/// A peer that advertises routes.
#[derive(Debug)]
struct Peer {
    address: IpAddr,
    routes: usize,
}

impl LearnedRoutes {
    /// Returns whether there are routes of a family.
    pub fn has(&self, family: IpFamily) -> bool {
        self.next_hops.iter().any(|next_hop| next_hop.routes[index_of(family)] > 0)
    }

    /// Sets the best route to a prefix. Returns whether it differs from the former one.
    pub fn insert(&mut self, prefix: IpNetwork, next_hop: IpAddr, peer: IpAddr, origin: Origin) -> bool {
        if let Some(present) = self.routes.get(&prefix)
            && self.next_hops.get(present.next_hop).is_some_and(|entry| entry.address == next_hop)
            && self.peers.get(present.peer).is_some_and(|entry| entry.address == peer)
            && (present.from_node, present.of_cluster) == (origin.from_node, origin.of_cluster)
        {
            return false;
        }
        self.remove(&prefix);
        let family = index_of(IpFamily::of_network(&prefix));
        let peer = self.peers.id(peer, |address| Peer { address, routes: 0 });
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.routes += 1;
        }
        let (id, new) = match self.next_hops.find(next_hop) {
            Some(id) => (id, false),
            None => (self.next_hops.id(next_hop, NextHop::new), true),
        };
        self.unused.remove(&next_hop);
        if let Some(entry) = self.next_hops.get_mut(id) {
            entry.routes[family] += 1;
            self.nodes_changed |= origin.from_node && entry.from_nodes == 0;
            entry.from_nodes += usize::from(origin.from_node);
            let was = entry.is_inferred_node();
            entry.of_cluster += usize::from(origin.of_cluster);
            if new || was != entry.is_inferred_node() {
                self.unresolved.insert(next_hop);
            }
        }
        let Origin { from_node, of_cluster } = origin;
        self.routes.insert(prefix, Learned { next_hop: id, peer, from_node, of_cluster, rejected: false });
        true
    }

    /// Removes the best route to a prefix. Returns whether there was one.
    pub fn remove(&mut self, prefix: &IpNetwork) -> bool {
        let Some(former) = self.routes.remove(prefix) else { return false };
        let family = index_of(IpFamily::of_network(prefix));
        if let Some(entry) = self.peers.get_mut(former.peer) {
            entry.routes -= 1;
            if entry.routes == 0 {
                let address = entry.address;
                self.peers.release(former.peer, address);
            }
        }
        if let Some(entry) = self.next_hops.get_mut(former.next_hop) {
            entry.routes[family] -= 1;
            entry.rejected[family] -= usize::from(former.rejected);
            entry.from_nodes -= usize::from(former.from_node);
            self.nodes_changed |= former.from_node && entry.from_nodes == 0;
            let was = entry.is_inferred_node();
            entry.of_cluster -= usize::from(former.of_cluster);
            if was != entry.is_inferred_node() {
                self.unresolved.insert(entry.address);
            }
            if entry.routes == [0; 2] {
                self.unused.insert(entry.address);
            }
        }
        true
    }

    /// Releases the next hops that no route uses any more, and returns them.
    pub fn release_unused(&mut self) -> BTreeSet<IpAddr> {
        let unused = std::mem::take(&mut self.unused);
        for address in &unused {
            self.unresolved.remove(address);
            if let Some(id) = self.next_hops.find(*address) {
                self.next_hops.release(id, *address);
            }
        }
        unused
    }

    /// Takes the next hops whose resolution is to be checked.
    pub fn take_unresolved(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.unresolved)
    }

    /// Returns whether other next hops have routes of nodes since the last call.
    pub fn take_nodes_changed(&mut self) -> bool {
        std::mem::take(&mut self.nodes_changed)
    }

    /// Sets whether the route to a prefix is rejected.
    pub fn set_rejected(&mut self, prefix: &IpNetwork, rejected: bool) {
        let Some(route) = self.routes.get_mut(prefix) else { return };
        let was = std::mem::replace(&mut route.rejected, rejected);
        let family = index_of(IpFamily::of_network(prefix));
        if let Some(entry) = self.next_hops.get_mut(route.next_hop) {
            entry.rejected[family] = entry.rejected[family] + usize::from(rejected) - usize::from(was);
        }
    }

    /// Removes all verdicts: there is no node from whose point of view they are.
    pub fn clear_verdicts(&mut self) {
        for next_hop in self.next_hops.iter_mut() {
            (next_hop.verdict, next_hop.hop, next_hop.rejected) = (None, None, [0; 2]);
        }
        self.routes.values_mut().for_each(|route| route.rejected = false);
    }

    /// Returns the next hop of the route to a prefix.
    pub fn next_hop_of(&self, prefix: &IpNetwork) -> Option<&NextHop> {
        self.next_hops.get(self.routes.get(prefix)?.next_hop)
    }

    /// Returns a next hop in use.
    pub fn next_hop(&mut self, address: IpAddr) -> Option<&mut NextHop> {
        let id = self.next_hops.find(address)?;
        self.next_hops.get_mut(id)
    }

    /// Returns all next hops, in no order.
    pub fn next_hops(&self) -> impl Iterator<Item = &NextHop> {
        self.next_hops.iter()
    }

    /// Returns the addresses of all next hops, in their order.
    pub fn next_hop_addresses(&self) -> BTreeSet<IpAddr> {
        self.next_hops.iter().map(|entry| entry.address).collect()
    }

    /// Returns the prefixes with one of these next hops, in no order.
    pub fn behind<'a>(&'a self, next_hops: &'a BTreeSet<IpAddr>) -> impl Iterator<Item = IpNetwork> + 'a {
        let ids: Vec<bool> = self.next_hops.flags(|entry| next_hops.contains(&entry.address));
        let wanted = move |route: &Learned| ids.get(route.next_hop as usize).copied().unwrap_or(false);
        self.routes.iter().filter(move |(_, route)| wanted(route)).map(|(prefix, _)| *prefix)
    }

    /// Returns all prefixes, in no order.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.routes.keys().copied()
    }

    /// Returns the prefixes of routes that nodes advertised, in no order.
    pub fn prefixes_from_nodes(&self) -> impl Iterator<Item = IpNetwork> {
        self.routes.iter().filter(|(_, route)| route.from_node).map(|(prefix, _)| *prefix)
    }

    /// Returns the next hops of routes that nodes advertised, in no order.
    pub fn next_hops_from_nodes(&self) -> impl Iterator<Item = IpAddr> {
        self.next_hops.iter().filter(|entry| entry.from_nodes > 0).map(|entry| entry.address)
    }

    /// Computes the origin of all routes anew, after a change of the intent that it depends on.
    pub fn reclassify(&mut self, origin: impl Fn(&IpNetwork, IpAddr, IpAddr) -> Origin) {
        let before: Vec<(IpAddr, bool)> =
            self.next_hops.iter().map(|entry| (entry.address, entry.is_inferred_node())).collect();
        self.next_hops.iter_mut().for_each(|entry| (entry.from_nodes, entry.of_cluster) = (0, 0));
        for (prefix, route) in &mut self.routes {
            let (Some(peer), Some(next_hop)) =
                (self.peers.get(route.peer), self.next_hops.get_mut(route.next_hop))
            else {
                continue;
            };
            let found = origin(prefix, next_hop.address, peer.address);
            (route.from_node, route.of_cluster) = (found.from_node, found.of_cluster);
            next_hop.from_nodes += usize::from(found.from_node);
            next_hop.of_cluster += usize::from(found.of_cluster);
        }
        self.nodes_changed = true;
        for (address, was) in before {
            if self.next_hop(address).is_some_and(|entry| entry.is_inferred_node() != was) {
                self.unresolved.insert(address);
            }
        }
    }
}

/// Entries by address, each with a small number, which is used again after its release.
#[derive(Debug)]
struct Shared<T> {
    ids: HashMap<IpAddr, Id>,
    entries: Vec<Option<T>>,
    free: Vec<Id>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Shared<T> {
    /// Returns the number of an address, with a new entry where there is none.
    fn id(&mut self, address: IpAddr, make: impl FnOnce(IpAddr) -> T) -> Id {
        if let Some(id) = self.ids.get(&address) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as Id
        });
        self.entries[id as usize] = Some(make(address));
        self.ids.insert(address, id);
        id
    }

    fn find(&self, address: IpAddr) -> Option<Id> {
        self.ids.get(&address).copied()
    }

    fn get(&self, id: Id) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    fn release(&mut self, id: Id, address: IpAddr) {
        self.ids.remove(&address);
        self.entries[id as usize] = None;
        self.free.push(id);
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().flatten()
    }

    /// Returns a property of each entry, by its number.
    fn flags(&self, property: impl Fn(&T) -> bool) -> Vec<bool> {
        self.entries.iter().map(|entry| entry.as_ref().is_some_and(&property)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    const NODE: Origin = Origin { from_node: true, of_cluster: true };
    const OUTSIDE: Origin = Origin { from_node: false, of_cluster: false };

    #[test]
    fn routes_share_next_hops_which_are_released_with_the_last_route() {
        let mut learned = LearnedRoutes::default();
        let (a, b) = (network("10.0.1.0/24"), network("fd00:1::/64"));
        assert!(learned.insert(a, ip("192.0.2.1"), ip("192.0.2.1"), OUTSIDE));
        assert!(!learned.insert(a, ip("192.0.2.1"), ip("192.0.2.1"), OUTSIDE), "the same again");
        assert!(learned.insert(b, ip("192.0.2.1"), ip("192.0.2.2"), OUTSIDE));
        assert_eq!(learned.take_unresolved(), [ip("192.0.2.1")].into());
        learned.set_rejected(&b, true);
        let hop = learned.next_hop_of(&a).unwrap();
        assert_eq!((hop.counts(IpFamily::V4), hop.counts(IpFamily::V6)), ((1, 0), (0, 1)));
        assert!(learned.insert(a, ip("192.0.2.9"), ip("192.0.2.1"), OUTSIDE));
        assert!(learned.remove(&b) && !learned.remove(&b));
        assert_eq!(learned.release_unused(), [ip("192.0.2.1")].into());
        assert_eq!(learned.next_hop_addresses(), [ip("192.0.2.9")].into());
        assert_eq!(learned.behind(&[ip("192.0.2.9")].into()).collect::<Vec<_>>(), [a]);
        assert!(learned.has(IpFamily::V4) && !learned.has(IpFamily::V6));
    }

    #[test]
    fn a_next_hop_that_a_withdrawn_route_and_a_new_one_use_stays_resolved() {
        let mut learned = LearnedRoutes::default();
        let (a, b) = (network("10.0.1.0/24"), network("10.0.2.0/24"));
        learned.insert(a, ip("192.0.2.1"), ip("192.0.2.1"), OUTSIDE);
        learned.take_unresolved();
        learned.remove(&a);
        learned.insert(b, ip("192.0.2.1"), ip("192.0.2.1"), OUTSIDE);
        assert!(learned.release_unused().is_empty());
        assert!(learned.take_unresolved().is_empty());
    }

    #[test]
    fn next_hops_are_checked_again_when_they_become_nodes_or_cease_to_be() {
        let mut learned = LearnedRoutes::default();
        let (a, hop) = (network("10.0.1.0/24"), ip("192.0.2.1"));
        learned.insert(a, hop, ip("192.0.2.9"), OUTSIDE);
        learned.take_unresolved();
        learned.reclassify(|_, _, _| NODE);
        assert_eq!(learned.take_unresolved(), [hop].into());
        assert_eq!(learned.prefixes_from_nodes().collect::<Vec<_>>(), [a]);
        assert_eq!(learned.next_hops_from_nodes().collect::<Vec<_>>(), [hop]);
        learned.reclassify(|_, _, _| NODE);
        assert!(learned.take_unresolved().is_empty());
        learned.insert(a, hop, ip("192.0.2.9"), OUTSIDE);
        assert_eq!(learned.take_unresolved(), [hop].into());
        assert!(!learned.next_hop(hop).unwrap().is_inferred_node());
    }
}
