//! The codec beside a reference, which encodes and decodes with netlink-packet-route.

use super::decode::RouteView;
use super::reference::{self, IpFamily};
use super::*;
use crate::dataplane::{Held, Hop, METRIC, PROTOCOL, Route};
use heliograph_cni::codec::{HEADER, attributes, messages};
use ipnetwork::IpNetwork;
use netlink_packet_core::{Emitable, NetlinkMessage, NetlinkPayload, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

fn devices() -> Devices {
    Devices::from([(Tunnel::ipip(IpFamily::V4), 7), (Tunnel::ipip(IpFamily::V6), 8)])
}

/// The length of `struct rtmsg` in octets.
const ROUTE_HEADER: usize = 12;

fn reference_devices() -> reference::Devices {
    reference::Devices::from([(IpFamily::V4, 7), (IpFamily::V6, 8)])
}

fn prefix(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn direct(via: &str) -> Hop {
    Hop::Direct { via: via.parse().unwrap(), oif: 3 }
}

fn tunnel(remote: &str, local: &str) -> Hop {
    let remote: IpAddr = remote.parse().unwrap();
    Hop::Tunnel { tunnel: Tunnel::ipip(IpFamily::of(remote)), remote, local: local.parse().unwrap() }
}

fn referenced(route: &Route) -> reference::Route {
    match route {
        Route::Blackhole => reference::Route::Blackhole,
        Route::Unicast(hops) => reference::Route::unicast(hops.iter().map(|hop| match *hop {
            Hop::Direct { via, oif } => reference::Hop::Direct { via, oif },
            Hop::Tunnel { remote, local, .. } => reference::Hop::Tunnel { remote, local },
        })),
    }
}

/// Returns the payload of the request for a change, without its message header.
fn encoded(change: &RouteChange) -> Vec<u8> {
    let mut batch = Batch::default();
    batch.push(change, &devices()).unwrap();
    let message = messages(&batch.bytes).next().unwrap();
    assert_eq!(message.payload.len() + HEADER, batch.len(), "the length is that of the whole");
    message.payload.to_vec()
}

fn add(at: &str, route: &Route) -> Vec<u8> {
    encoded(&RouteChange::Add(prefix(at), Arc::new(route.clone())))
}

fn decoded(payload: &[u8]) -> Option<DumpedRoute> {
    RouteView::new(payload)?.dumped(&devices())
}

fn held(at: &str, payload: &[u8]) -> Held<Decoded> {
    match decoded(payload) {
        Some(DumpedRoute::Ours(found, held)) if found == prefix(at) => held,
        other => panic!("{other:?}"),
    }
}

fn emitted(message: &RouteMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

/// Parses a payload as netlink-packet-route does.
fn parsed(payload: &[u8]) -> RouteMessage {
    RouteMessage::parse(payload).unwrap()
}

fn check(at: &str, route: &Route) {
    let ours = add(at, route);
    let theirs = reference::encode(prefix(at), &referenced(route), &reference_devices()).unwrap();
    // The padding of attributes is the only difference that there may be.
    assert_eq!(
        reference::decode(&parsed(&ours), &reference_devices()),
        reference::decode(&theirs, &reference_devices())
    );
    assert_eq!(ours, emitted(&theirs), "{at} {route}");
    let Held::Value(decoded) = held(at, &ours) else { panic!("{at} {route}") };
    assert!(decoded.is(route));
    assert_eq!(decoded.into_route(), *route);
}

#[test]
fn routes_survive_the_message() {
    check("10.1.0.0/24", &Route::Blackhole);
    check("fd00::/64", &Route::Blackhole);
    check("0.0.0.0/0", &Route::unicast([direct("192.0.2.1")]));
    check("10.1.0.0/24", &Route::unicast([direct("fe80::1")]));
    check("fd00::/64", &Route::unicast([direct("2001:db8::1"), direct("2001:db8::2")]));
    check("10.1.0.0/24", &Route::unicast([direct("fe80::1"), direct("192.0.2.3")]));
    check("10.1.0.0/24", &Route::unicast([tunnel("192.0.2.9", "192.0.2.1"), direct("192.0.2.3")]));
    check(
        "10.1.0.0/24",
        &Route::unicast([tunnel("192.0.2.9", "192.0.2.1"), tunnel("192.0.2.8", "192.0.2.1")]),
    );
    check("10.1.0.0/24", &Route::unicast([tunnel("2001:db8::9", "2001:db8::1")]));
    check("fd00::/64", &Route::unicast([tunnel("2001:db8::9", "2001:db8::1")]));
}

#[test]
fn deletions_are_those_of_the_other_encoder() {
    for (at, metric, tos) in [("10.1.0.0/24", METRIC, 0), ("fd00::/64", 7, 0), ("0.0.0.0/0", 0, 16)] {
        let ours = encoded(&RouteChange::Delete { prefix: prefix(at), metric, tos });
        assert_eq!(ours, emitted(&reference::encode_delete(prefix(at), metric, tos)));
    }
}

#[test]
fn encoding_errors_give_the_reason_and_leave_the_batch_as_it_was() {
    let at6 = prefix("fd00::/64");
    let at4 = prefix("10.0.0.0/8");
    let mut batch = Batch::default();
    batch.push(&RouteChange::Add(at4, Arc::new(Route::Blackhole)), &devices()).unwrap();
    let length = batch.len();
    let mut error = |prefix, route: Route, devices: &Devices| {
        let error = batch.push(&RouteChange::Add(prefix, Arc::new(route)), devices).unwrap_err();
        assert_eq!(batch.len(), length);
        error
    };
    let over4 = Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]);
    let none = error(at4, over4.clone(), &Devices::new());
    assert_eq!(none, EncodeError::NoDevice(Tunnel::ipip(IpFamily::V4)));
    let payload = error(at6, over4, &devices());
    assert_eq!(payload.to_string(), "IPv6 prefix fd00::/64 can't go through the IPv4 tunnel to 192.0.2.9");
    let mixed = Route::unicast([tunnel("192.0.2.9", "2001:db8::1")]);
    assert!(matches!(error(at4, mixed, &devices()), EncodeError::MixedEnds { .. }));
    let via4 = Route::unicast([direct("192.0.2.1")]);
    assert!(matches!(error(at6, via4, &devices()), EncodeError::WrongGateway { .. }));
    let two = Route::unicast([tunnel("2001:db8::9", "2001:db8::1"), tunnel("2001:db8::8", "2001:db8::1")]);
    assert_eq!(error(at6, two, &devices()), EncodeError::MultipathTunnels(at6));
    assert_eq!(error(at4, Route::unicast([]), &devices()), EncodeError::NoHop(at4));
}

/// Appends an attribute to a payload.
fn with(mut payload: Vec<u8>, kind: u16, value: &[u8]) -> Vec<u8> {
    payload.extend((value.len() as u16 + 4).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len().next_multiple_of(4), 0);
    payload
}

#[test]
fn changed_routes_are_altered() {
    let at = "10.1.0.0/24";
    let payload = add(at, &Route::unicast([direct("192.0.2.1")]));
    for (kind, value) in [
        (attribute::PREFERRED_SOURCE, &[192, 0, 2, 7][..]),
        (attribute::METRICS, &[8, 0, 2, 0, 20, 5, 0, 0]),
        (attribute::NEXT_HOP_ID, &[9, 0, 0, 0]),
        (attribute::FLOW, &[1, 0, 0, 0]),
        (attribute::EXPIRES, &[1, 0, 0, 0]),
        (attribute::SOURCE, &[192, 0, 2, 7]),
    ] {
        let altered = with(payload.clone(), kind, value);
        assert_eq!(held(at, &altered), Held::Altered, "attribute {kind}");
        let theirs = reference::decode(&parsed(&altered), &reference_devices());
        assert!(matches!(theirs, Some(reference::DumpedRoute::Ours(_, reference::Held::Altered(_)))));
    }
    let unreachable = {
        let mut payload = payload.clone();
        payload[7] = libc::RTN_UNREACHABLE;
        payload
    };
    assert_eq!(held(at, &unreachable), Held::Altered);

    let mut two = add(at, &Route::unicast([direct("192.0.2.1"), direct("192.0.2.2")]));
    let place = two.windows(4).position(|four| four == [attribute::MULTIPATH as u8, 0, 16, 0]).unwrap();
    two[place + 5] = 4;
    assert_eq!(held(at, &two), Held::Altered, "a weight");

    // After the tunnel device was created again, a route through the old one is not the desired one.
    let over = add(at, &Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]));
    let other = Devices::from([(Tunnel::ipip(IpFamily::V4), 99)]);
    let dumped = RouteView::new(&over).unwrap().dumped(&other);
    assert_eq!(dumped, Some(DumpedRoute::Ours(prefix(at), Held::Altered)));
}

#[test]
fn padding_of_the_kernel_is_no_change() {
    let at = "10.1.0.0/24";
    let route = Route::unicast([tunnel("192.0.2.9", "192.0.2.1")]);
    let plain = add(at, &route);
    let padded = |kind: u16, value: &[u8]| {
        // The encapsulation is the last attribute.
        let (place, _) = plain.windows(4).enumerate().find(|(_, four)| four[2..] == [22, 0]).unwrap();
        let mut longer = with(plain.clone(), kind, value);
        let length = (longer.len() - place) as u16;
        longer[place..place + 2].copy_from_slice(&length.to_ne_bytes());
        held(at, &longer)
    };
    for (kind, value) in [(7, &[][..]), (5, &[0]), (6, &[0, 0])] {
        assert!(matches!(padded(kind, value), Held::Value(found) if found.is(&route)), "{kind}");
    }
    assert_eq!(padded(5, &[16]), Held::Altered, "a TOS");
    assert_eq!(padded(4, &[63]), Held::Altered, "another TTL");
}

#[test]
fn strays_foreign_routes_and_other_tables_are_distinguished() {
    let at = prefix("10.1.0.0/24");
    let mut payload = add("10.1.0.0/24", &Route::Blackhole);
    payload[3] = 8;
    assert_eq!(decoded(&payload), Some(DumpedRoute::Stray(Stray { prefix: at, metric: METRIC, tos: 8 })));
    payload[5] = 4;
    let foreign = Foreign { prefix: at, metric: METRIC, tos: 8, protocol: 4 };
    assert_eq!(decoded(&payload), Some(DumpedRoute::Foreign(foreign)));
    let elsewhere = with(payload.clone(), attribute::TABLE, &1000_u32.to_ne_bytes());
    assert_eq!(decoded(&elsewhere), None);
    payload[4] = 100;
    assert_eq!(decoded(&payload), None);
    payload[0] = libc::AF_BRIDGE as u8;
    assert!(RouteView::new(&payload).is_none());
}

#[test]
fn a_batch_consists_of_requests() {
    let mut batch = Batch::default();
    let changes = [
        RouteChange::Add(prefix("10.1.0.0/24"), Arc::new(Route::Blackhole)),
        RouteChange::Replace(prefix("fd00::/64"), Arc::new(Route::unicast([direct("2001:db8::1")]))),
        RouteChange::Delete { prefix: prefix("10.2.0.0/24"), metric: METRIC, tos: 0 },
    ];
    for change in &changes {
        batch.push(change, &devices()).unwrap();
    }
    let all: Vec<_> = messages(&batch.bytes).map(|message| (message.kind, message.flags)).collect();
    assert_eq!(all, [(24, 0x601), (24, 0x501), (25, 1)], "exclusive, replacing, deleting");
    assert_eq!(batch.count, 3);
    batch.clear();
    assert!(batch.is_empty() && batch.bytes.is_empty());
}

fn any_hop(v4: bool) -> impl Strategy<Value = Hop> {
    let via4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let via6 = any::<[u8; 16]>().prop_map(IpAddr::from);
    let via = if v4 { prop_oneof![via4, via6].boxed() } else { via6.boxed() };
    let direct = (via, 1..10_u32).prop_map(|(via, oif)| Hop::Direct { via, oif });
    let over4 = any::<([u8; 4], [u8; 4])>().prop_map(|(remote, local)| Hop::Tunnel {
        tunnel: Tunnel::ipip(IpFamily::V4),
        remote: remote.into(),
        local: local.into(),
    });
    let over6 = any::<([u8; 16], [u8; 16])>().prop_map(|(remote, local)| Hop::Tunnel {
        tunnel: Tunnel::ipip(IpFamily::V6),
        remote: remote.into(),
        local: local.into(),
    });
    if v4 { prop_oneof![direct, over4, over6].boxed() } else { prop_oneof![direct, over6].boxed() }
}

fn any_route(v4: bool) -> impl Strategy<Value = Route> {
    let hops = proptest::collection::vec(any_hop(v4), 1..5).prop_map(Route::unicast);
    prop_oneof![1 => Just(Route::Blackhole), 9 => hops]
}

fn any_prefix(v4: bool) -> impl Strategy<Value = IpNetwork> {
    (any::<[u8; 16]>(), 0..=128_u8).prop_map(move |(octets, length)| {
        let (address, length) = match v4 {
            true => (IpAddr::from([octets[0], octets[1], octets[2], octets[3]]), length.min(32)),
            false => (IpAddr::from(octets), length),
        };
        let network = IpNetwork::new(address, length).unwrap();
        IpNetwork::new(network.network(), length).unwrap()
    })
}

fn any_case() -> impl Strategy<Value = (IpNetwork, Route)> {
    any::<bool>().prop_flat_map(|v4| (any_prefix(v4), any_route(v4)))
}

proptest! {
    /// For each route, the bytes are those of the other encoder, and decode to the same route.
    #[test]
    fn the_bytes_are_those_of_the_other_encoder((at, route) in any_case()) {
        let theirs = reference::encode(at, &referenced(&route), &reference_devices());
        let mut batch = Batch::default();
        let pushed = batch.push(&RouteChange::Add(at, Arc::new(route.clone())), &devices());
        prop_assert_eq!(pushed.is_ok(), theirs.is_ok());
        if let Ok(theirs) = theirs {
            let payload = &batch.bytes[HEADER..];
            prop_assert_eq!(payload, emitted(&theirs));
            let found = decoded(payload);
            prop_assert!(matches!(found, Some(DumpedRoute::Ours(prefix, Held::Value(value))) if prefix == at && value.is(&route)));
        }
    }

    /// Both decoders agree on whatever another program may have done to an octet of a route's header.
    #[test]
    fn both_decoders_agree_on_changed_headers((at, route) in any_case(), place in 0..ROUTE_HEADER, octet: u8) {
        let mut batch = Batch::default();
        prop_assume!(batch.push(&RouteChange::Add(at, Arc::new(route)), &devices()).is_ok());
        let mut payload = batch.bytes[HEADER..].to_vec();
        payload[place] = octet;
        // The other decoder rejects broken attributes, and doesn't compare the type of an encapsulation.
        let Ok(message) = RouteMessage::parse(payload.as_slice()) else { return Ok(()) };
        let theirs = reference::decode(&message, &reference_devices());
        match (decoded(&payload), theirs) {
            (Some(DumpedRoute::Ours(ours, Held::Value(value))), Some(reference::DumpedRoute::Ours(theirs, reference::Held::Route(route)))) => {
                prop_assert_eq!(ours, theirs);
                prop_assert_eq!(referenced(&value.into_route()), route);
            }
            // Ours may be stricter.
            (Some(DumpedRoute::Ours(_, Held::Altered)), _) | (None, _) => {}
            (Some(DumpedRoute::Stray(ours)), Some(reference::DumpedRoute::Stray(theirs))) => {
                prop_assert_eq!((ours.prefix, ours.metric, ours.tos), (theirs.prefix, theirs.metric, theirs.tos));
            }
            (Some(DumpedRoute::Foreign(ours)), Some(reference::DumpedRoute::Foreign(prefix, theirs))) => {
                prop_assert_eq!((ours.prefix, ours.metric, ours.protocol), (prefix, theirs.metric, theirs.protocol));
            }
            (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Some(view) = RouteView::new(&payload) {
            view.dumped(&devices());
            view.first_hop();
        }
        attributes(&payload).count();
    }
}

#[test]
fn requests_can_be_parsed_by_others() {
    let mut batch = Batch::default();
    batch.push(&RouteChange::Add(prefix("10.0.0.0/8"), Arc::new(Route::Blackhole)), &devices()).unwrap();
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&batch.bytes).unwrap();
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
        panic!()
    };
    assert_eq!(u8::from(route.header.protocol), PROTOCOL);
}
