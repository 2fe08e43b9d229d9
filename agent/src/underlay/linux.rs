//! The questions to the real kernel.
//!
//! For the segment of a next hop, two look-ups are needed: one for the entry of the table that matches (is it
//! Heliograph's?), and one for the resolved route (gateway, interface, source). An entry of Heliograph would describe the
//! overlay and not the underlay: then the main table is read, once for all such next hops, and the foreign route with the
//! longest prefix decides.

use super::{Interface, Questions, Segment};
use crate::dataplane::{PROTOCOL, Tunnel};
use crate::netlink::link::{ADDRESS_HEADER, Address, LINK_HEADER, Link};
use crate::netlink::route::decode::{FirstHop, RouteView};
use crate::netlink::route::encode::family_number;
use crate::netlink::route::socket::DUMP_ATTEMPTS;
use crate::netlink::route::{MAIN_TABLE, Part, Socket};
use crate::netlink::{self, Cause, KernelError, KernelResult};
use heliograph_cni::IpFamily;
use heliograph_cni::codec::Message;
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The flag of a request.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;

/// The kernel of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Linux {
    socket: Socket,
    /// The connection for links and addresses.
    objects: netlink::socket::Socket,
    /// The objects that were read for the present questions.
    read: Read,
}

/// Links and addresses that were read for one set of questions.
#[derive(Debug, Default)]
struct Read {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<IpFamily, Vec<Address>>,
}

/// The result of the first look-ups for a next hop.
enum Found {
    /// The foreign route that the kernel uses.
    Hop(FirstHop),
    /// The segment.
    Segment(Segment),
    /// A route of Heliograph: the foreign ones have to be read.
    Ours,
}

/// The best foreign route to a next hop so far.
type Best = ((Reverse<u8>, u32), u8, FirstHop);

impl Linux {
    /// Opens a connection to the kernel.
    pub fn open() -> KernelResult<Self> {
        let objects = netlink::socket::Socket::open(NETLINK_ROUTE)?;
        Ok(Self { socket: Socket::open()?, objects, read: Read::default() })
    }

    fn find(&mut self, next_hop: IpAddr) -> KernelResult<Found> {
        /// RTM_F_FIB_MATCH: return the matching entry of the table.
        const FIB_MATCH: u32 = 0x2000;
        let failed = |cause| KernelError::from_cause(format!("look up the route to {next_hop}"), cause);
        let matched = self.socket.look_up(header(next_hop, FIB_MATCH), next_hop, |payload| {
            let route = RouteView::new(payload)?;
            Some((route.kind, route.protocol))
        });
        let (kind, protocol) = match matched {
            Ok(matched) => matched,
            // A blackhole, which may be Heliograph's.
            Err(Cause::Rejected { errno: Errno::EINVAL, message: None }) => return Ok(Found::Ours),
            Err(cause) if means_no_route(&cause) => return Ok(unreachable(cause.to_string())),
            Err(cause) => return Err(failed(cause)),
        };
        match (kind, protocol) {
            (libc::RTN_LOCAL, _) => return Ok(Found::Segment(Segment::Local)),
            (_, PROTOCOL) => return Ok(Found::Ours),
            (libc::RTN_UNICAST, _) => {}
            _ => return Ok(Found::Segment(unreachable_by(kind))),
        }
        let resolved = self
            .socket
            .look_up(header(next_hop, 0), next_hop, |payload| Some(RouteView::new(payload)?.first_hop()));
        match resolved {
            Ok(hop) => Ok(Found::Hop(hop)),
            Err(cause) if means_no_route(&cause) => Ok(unreachable(cause.to_string())),
            Err(cause) => Err(failed(cause)),
        }
    }

    fn segment_of(&mut self, hop: &FirstHop, next_hop: IpAddr) -> KernelResult<Segment> {
        let Some(oif) = hop.oif else {
            return Ok(Segment::Unreachable { error: "the route has no interface".to_owned() });
        };
        let name = self.link(oif)?.name.clone();
        if Tunnel::by_device(&name).is_some() {
            return Ok(Segment::Unreachable {
                error: format!("the only route to it goes through the tunnel {name}"),
            });
        }
        let source = match hop.source {
            Some(source) => source,
            None => match self.address_on(oif, IpFamily::of(next_hop))? {
                Some(source) => source,
                None => {
                    return Ok(Segment::Unreachable { error: format!("this node has no address on {name}") });
                }
            },
        };
        Ok(match hop.gateway {
            None => Segment::Direct { oif, name, source },
            Some(gateway) => Segment::Routed { gateway, oif, name, source },
        })
    }

    /// Returns the route to each next hop that the kernel would use without Heliograph's: the one with the longest prefix,
    /// then the lowest metric.
    fn foreign_routes(&mut self, next_hops: &[IpAddr]) -> KernelResult<BTreeMap<IpAddr, Best>> {
        let mut all = BTreeMap::new();
        for family in IpFamily::ALL {
            let of_family: Vec<IpAddr> =
                next_hops.iter().copied().filter(|next_hop| IpFamily::of(*next_hop) == family).collect();
            if !of_family.is_empty() {
                let failed = |cause| KernelError::from_cause(format!("read the {family} routes"), cause);
                all.extend(self.foreign_routes_of(family, &of_family).map_err(failed)?);
            }
        }
        Ok(all)
    }

    fn foreign_routes_of(
        &mut self,
        family: IpFamily,
        next_hops: &[IpAddr],
    ) -> Result<BTreeMap<IpAddr, Best>, Cause> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut best = BTreeMap::new();
            self.socket.begin_dump(family, None)?;
            loop {
                let part = self.socket.next_part(|payload| {
                    if let Some(route) = RouteView::new(payload) {
                        next_hops.iter().for_each(|next_hop| prefer(&mut best, *next_hop, &route));
                    }
                })?;
                match part {
                    Part::More => {}
                    Part::Last => return Ok(best),
                    Part::Interrupted => break,
                }
            }
        }
        Err(Cause::Interrupted(DUMP_ATTEMPTS))
    }

    fn link(&mut self, index: u32) -> KernelResult<&Link> {
        if !self.read.links.contains_key(&index) {
            let what = format!("look up interface {index}");
            let mut header = [0; LINK_HEADER];
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            let answer = self.objects.get(&what, Message::new(libc::RTM_GETLINK, REQUEST, &header))?;
            let unexpected = || KernelError::from_cause(what, Cause::Unexpected(format!("{answer:?}")));
            self.read.links.insert(index, Link::new(&answer).ok_or_else(unexpected)?);
        }
        Ok(&self.read.links[&index])
    }

    /// Returns a global address of this node on an interface.
    fn address_on(&mut self, index: u32, family: IpFamily) -> KernelResult<Option<IpAddr>> {
        let mut all = self.addresses(family)?.iter();
        let global = |address: &&Address| address.index == index && address.scope == libc::RT_SCOPE_UNIVERSE;
        Ok(all.find(global).map(|address| address.own))
    }

    fn addresses(&mut self, family: IpFamily) -> KernelResult<&[Address]> {
        if !self.read.addresses.contains_key(&family) {
            let mut header = [0; ADDRESS_HEADER];
            header[0] = family_number(family);
            let request = || Message::new(libc::RTM_GETADDR, REQUEST, &header);
            let answers = self.objects.dump("read this node's addresses", request)?;
            let addresses = answers.iter().filter_map(|answer| Address::new(answer));
            // A kernel without the family returns the addresses of all.
            let addresses = addresses.filter(|address| IpFamily::of(address.own) == family).collect();
            self.read.addresses.insert(family, addresses);
        }
        Ok(&self.read.addresses[&family])
    }
}

impl Questions for Linux {
    fn segments(&mut self, next_hops: &[IpAddr]) -> Vec<KernelResult<Segment>> {
        self.read = Read::default();
        let found: Vec<_> = next_hops.iter().map(|next_hop| self.find(*next_hop)).collect();
        let overlaid: Vec<IpAddr> = next_hops
            .iter()
            .zip(&found)
            .filter_map(|(next_hop, found)| matches!(found, Ok(Found::Ours)).then_some(*next_hop))
            .collect();
        let foreign = self.foreign_routes(&overlaid);
        let answer = |(next_hop, found): (&IpAddr, KernelResult<Found>)| match found? {
            Found::Segment(segment) => Ok(segment),
            Found::Hop(hop) => self.segment_of(&hop, *next_hop),
            Found::Ours => match foreign.as_ref().map_err(Clone::clone)?.get(next_hop) {
                Some((_, libc::RTN_UNICAST, hop)) => self.segment_of(hop, *next_hop),
                Some((_, kind, _)) => Ok(unreachable_by(*kind)),
                None => Ok(Segment::Unreachable {
                    error: "there are no routes to it except those of Heliograph".to_owned(),
                }),
            },
        };
        next_hops.iter().zip(found).map(answer).collect()
    }

    fn interface(&mut self, address: IpAddr) -> KernelResult<Interface> {
        self.read = Read::default();
        let found = self.addresses(IpFamily::of(address))?.iter().find(|found| found.own == address);
        let Some(index) = found.map(|found| found.index) else {
            return Err(KernelError::new(
                format!("find the interface of {address}"),
                Cause::Unexpected("no interface of this node has that address".to_owned()),
                "check that the Node's InternalIP is an address of this machine (ip address), and that --node names \
                 this machine",
            ));
        };
        let Link { name, mtu, .. } = self.link(index)?.clone();
        Ok(Interface { index, name, mtu })
    }
}

/// Returns `struct rtmsg` of a look-up.
fn header(address: IpAddr, flags: u32) -> [u8; 12] {
    let family = IpFamily::of(address);
    let mut header = [0; 12];
    header[0] = family_number(family);
    header[1] = family.bits();
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Returns whether an error means that there is no route, or one of type unreachable, prohibit or blackhole. For the last,
/// the kernel returns EINVAL, as it does for an invalid request; but then it adds an explanation.
fn means_no_route(cause: &Cause) -> bool {
    match cause {
        Cause::Rejected { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. } => true,
        Cause::Rejected { errno: Errno::EINVAL, message } => message.is_none(),
        _ => false,
    }
}

fn unreachable(error: String) -> Found {
    Found::Segment(Segment::Unreachable { error })
}

fn unreachable_by(kind: u8) -> Segment {
    let name = match kind {
        libc::RTN_UNREACHABLE => "unreachable".to_owned(),
        libc::RTN_PROHIBIT => "prohibit".to_owned(),
        libc::RTN_BLACKHOLE => "blackhole".to_owned(),
        libc::RTN_BROADCAST => "broadcast".to_owned(),
        libc::RTN_MULTICAST => "multicast".to_owned(),
        number => number.to_string(),
    };
    Segment::Unreachable { error: format!("the route to it is of type {name}") }
}

/// Keeps a route to a next hop if it is foreign and the kernel would prefer it to the best so far.
fn prefer(best: &mut BTreeMap<IpAddr, Best>, next_hop: IpAddr, route: &RouteView<'_>) {
    let candidate = route.protocol != PROTOCOL && route.tos == 0 && route.table == MAIN_TABLE;
    if !candidate || !route.prefix.contains(next_hop) {
        return;
    }
    let rank = (Reverse(route.prefix.prefix()), route.metric);
    if best.get(&next_hop).is_none_or(|(before, ..)| rank < *before) {
        best.insert(next_hop, (rank, route.kind, route.first_hop()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnetwork::IpNetwork;

    fn route(prefix: &str, protocol: u8, metric: u32, oif: u32) -> Vec<u8> {
        let prefix: IpNetwork = prefix.parse().unwrap();
        let header = [2, prefix.prefix(), 0, 0, 254, protocol, 0, 1, 0, 0, 0, 0];
        let mut message = Message::new(libc::RTM_NEWROUTE, 0, &header);
        message.attribute_u32(6, metric);
        message.attribute_u32(4, oif);
        if let (true, IpAddr::V4(network)) = (prefix.prefix() > 0, prefix.network()) {
            message.attribute(1, &network.octets());
        }
        message.finish(0).split_off(heliograph_cni::codec::HEADER)
    }

    fn chosen(routes: &[Vec<u8>], to: &str) -> Option<u32> {
        let next_hop = to.parse().unwrap();
        let mut best = BTreeMap::new();
        routes.iter().for_each(|route| prefer(&mut best, next_hop, &RouteView::new(route).unwrap()));
        best.get(&next_hop)?.2.oif
    }

    #[test]
    fn own_routes_are_ignored_and_the_longest_foreign_prefix_decides() {
        let routes = [
            route("0.0.0.0/0", 4, 0, 1),
            route("192.0.2.0/24", 2, 0, 2),
            route("192.0.2.128/25", PROTOCOL, 104, 3),
            route("192.0.2.0/24", 4, 50, 4),
        ];
        assert_eq!(chosen(&routes, "192.0.2.129"), Some(2));
        assert_eq!(chosen(&routes, "203.0.113.1"), Some(1));
        assert_eq!(chosen(&routes[2..3], "192.0.2.129"), None);
    }
}
