//! External sessions: roles (RFC 9234), next hops (RFC 8950), communities.

use super::*;
use crate::wire::{AsPath, ExtendedCommunity, Role, Segment};

const THEIRS: u32 = 64600;

fn external(n: u8, role: Option<Role>) -> Neighbor {
    Neighbor { asn: THEIRS + u32::from(n), role, ..neighbor(n) }
}

fn up(play: &mut Play, n: u8) -> ConnId {
    let conn = play.up_with(n, Play::open(n, THEIRS + u32::from(n)));
    play.sent(conn);
    conn
}

fn from(n: u8) -> Attributes {
    let as_path = AsPath(vec![Segment::Sequence(vec![THEIRS + u32::from(n)])]);
    Attributes { as_path, ..Attributes::local() }
}

/// Neighbor 1 advertises a route with that OTC. Returns the OTC that neighbor 2 receives; `None`: no route.
fn passes(ours_to_1: Option<Role>, otc: Option<u32>, ours_to_2: Option<Role>) -> Option<Option<u32>> {
    let mut play = Play::new(config(vec![external(1, ours_to_1), external(2, ours_to_2)]));
    let (one, two) = (up(&mut play, 1), up(&mut play, 2));
    play.advertise_with(one, 1, vec![prefix(1)], Attributes { only_to_customer: otc, ..from(1) });
    let update = play.updates(two).into_iter().find(|update| !update.reach.is_empty())?;
    Some(update.attributes.expect("a reach has some").only_to_customer)
}

/// RFC 9234 §5: every rule, in both directions.
#[test]
fn only_to_customer() {
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
    let one = THEIRS + 1;
    // Towards a customer: every route, marked.
    assert_eq!(passes(Some(Customer), None, Some(Provider)), Some(Some(one)), "marked on receipt");
    assert_eq!(passes(Some(Customer), Some(7), Some(Provider)), Some(Some(7)), "a mark stays");
    assert_eq!(passes(Some(Provider), None, Some(Provider)), Some(Some(ASN)), "marked on export");
    assert_eq!(passes(Some(Provider), None, Some(RouteServer)), Some(Some(ASN)));
    assert_eq!(passes(Some(Provider), None, Some(Peer)), Some(Some(ASN)));
    // Towards a provider or peer: only routes from customers.
    assert_eq!(passes(Some(Provider), None, Some(Customer)), Some(None));
    for from in [Customer, Peer, RouteServerClient] {
        for to in [Customer, Peer, RouteServerClient] {
            assert_eq!(passes(Some(from), None, Some(to)), None, "{from:?} to {to:?}");
        }
    }
    // Route leaks.
    assert_eq!(passes(Some(Provider), Some(7), None), None);
    assert_eq!(passes(Some(RouteServer), Some(7), None), None);
    assert_eq!(passes(Some(Peer), Some(7), None), None);
    assert_eq!(passes(Some(Peer), Some(one), None), Some(Some(one)));
    // Without a role nothing is checked.
    assert_eq!(passes(None, Some(7), None), Some(Some(7)));
}

#[test]
fn a_route_leak_is_reported() {
    let mut play = Play::new(config(vec![external(1, Some(Role::Provider))]));
    let one = up(&mut play, 1);
    play.advertise_with(one, 1, vec![prefix(1)], Attributes { only_to_customer: Some(7), ..from(1) });
    let reason = play.speaker.paths().swap_remove(0).reason.to_string();
    assert_eq!(reason, "route leak: marked by AS 7 as only for customers, AS 64601 must not send it here");
}

/// RFC 4360 §6: non-transitive extended communities stay in the AS.
#[test]
fn non_transitive_communities_stay_in_the_as() {
    let mut play = Play::new(config(vec![client(1), external(2, None), client(3)]));
    let one = play.up(1);
    let (two, three) = (up(&mut play, 2), play.up(3));
    let (goes, stays) =
        (ExtendedCommunity([0, 2, 0, 0, 0, 0, 0, 1]), ExtendedCommunity([0x40, 2, 0, 0, 0, 0, 0, 1]));
    let attributes = Attributes { extended_communities: vec![goes, stays].into(), ..Attributes::local() };
    play.advertise_with(one, 1, vec![prefix(1)], attributes);
    let mut received = |conn| {
        let updates = play.updates(conn).into_iter();
        updates.filter_map(|update| update.attributes).next().expect("sent").extended_communities
    };
    assert_eq!(received(two), [goes]);
    assert_eq!(received(three), [goes, stays]);
}

/// RFC 8950: IPv4 prefixes with IPv6 next hops are advertised to peers with the capability, and withheld from the others.
#[test]
fn ipv6_next_hops_of_ipv4_prefixes_need_the_capability() {
    let understanding = |n| Neighbor { extended_next_hop: true, ..client(n) };
    let mut play = Play::new(config(vec![understanding(1), understanding(2), client(3)]));
    let open = |n| {
        let mut open = Play::open(n, ASN);
        open.capabilities.push(Capability::ExtendedNextHop);
        open
    };
    let (one, two, three) = (play.up_with(1, open(1)), play.up_with(2, open(2)), play.up(3));
    play.sent(three);
    let next_hop = NextHop { address: "2001:db8::1".parse().expect("an address"), link_local: None };
    let reach = vec![Reach { family: Family::Ipv4Unicast, next_hop, prefixes: vec![prefix(1).into()] }];
    let update = Update { attributes: Some(Attributes::local()), reach, ..Update::default() };
    play.receive(one, &Message::Update(update));
    assert_eq!(play.speaker.best_routes()[0].next_hop, next_hop.address);
    let mut bytes = BytesMut::new();
    while play.speaker.transmit(play.now, two, 1 << 16, &mut bytes) > 0 {}
    let mut framer = Framer::new();
    framer.push(&bytes);
    let codec = Codec { extended_next_hop: true, ..CODEC };
    let mut hops = Vec::new();
    while let Some(frame) = framer.next().expect("a valid stream") {
        if let Ok(Message::Update(update)) = wire::decode(&frame, &codec, &[Family::Ipv4Unicast]) {
            hops.extend(update.reach.iter().map(|reach| reach.next_hop.address));
        }
    }
    assert_eq!(hops, [next_hop.address]);
    assert_eq!(play.changes(three), (vec![], vec![]));
    assert!(play.report(3).reason.to_string().contains("1 routes withheld"), "{}", play.report(3).reason);
}

/// RFC 8326: before we shut down, routes through us get the lowest preference, and the usual one if we stay after all.
#[test]
fn graceful_shutdown_is_advertised_live() {
    const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    let networks = vec![Network::new(prefix(9))];
    let neighbors = vec![client(1), client(2), external(3, None)];
    let mut config = Config { networks, ..config(neighbors) };
    let mut play = Play::new(config.clone());
    let (one, two) = (play.up(1), play.up(2));
    let three = up(&mut play, 3);
    play.advertise(one, 1, vec![prefix(1)]);
    play.advertise_with(three, 3, vec![prefix(3)], from(3));
    play.sent(two);
    play.sent(three);
    let received = |play: &mut Play, conn| {
        let mut received: Vec<_> = Vec::new();
        for update in play.updates(conn) {
            let attributes = update.attributes.expect("a reach");
            let leaving = attributes.communities.contains(&GRACEFUL_SHUTDOWN);
            let prefixes = update.reach.into_iter().flat_map(|reach| reach.prefixes);
            received.extend(prefixes.map(|prefix| (prefix.prefix, leaving, attributes.local_pref)));
        }
        received.sort();
        received
    };
    config.graceful_shutdown = true;
    play.set(config.clone());
    let low = Some(0);
    assert_eq!(
        received(&mut play, two),
        [(prefix(3), true, low), (prefix(9), true, low)],
        "not what we reflect"
    );
    assert_eq!(received(&mut play, three), [(prefix(1), true, None), (prefix(9), true, None)]);
    config.graceful_shutdown = false;
    play.set(config);
    let usual = Some(100);
    assert_eq!(received(&mut play, two), [(prefix(3), false, usual), (prefix(9), false, usual)]);
    assert!((1..=3).all(|n| play.report(n).established_count == 1));
}

/// RFC 8326 §4.1: the receiver of a graceful shutdown prefers any other path.
#[test]
fn graceful_shutdown_is_applied_on_receipt() {
    let mut play = Play::new(config(vec![external(1, None), external(2, None)]));
    let (one, two) = (up(&mut play, 1), up(&mut play, 2));
    play.advertise_with(one, 1, vec![prefix(1)], from(1));
    let mut longer = from(2);
    longer.as_path = AsPath(vec![Segment::Sequence(vec![THEIRS + 2, 7, 8])]);
    play.advertise_with(two, 2, vec![prefix(1)], longer);
    assert_eq!(play.speaker.best_routes()[0].peer, address(1));
    play.advertise_with(
        one,
        1,
        vec![prefix(1)],
        Attributes { communities: vec![0xffff_0000].into(), ..from(1) },
    );
    assert_eq!(play.speaker.best_routes()[0].peer, address(2));
}
