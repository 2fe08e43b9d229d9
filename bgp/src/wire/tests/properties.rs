use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::{
    AddPathMode, Aggregator, AsPath, Attributes, Capability, ExtendedCommunity, GracefulRestart,
    LargeCommunity, LongLived, NextHop, Notification, Open, Origin, PathIds, Reach, Refresh, Role, Segment,
    Unknown, Update,
};

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)]
}

fn asn() -> impl Strategy<Value = u32> {
    // AS_TRANS is no real AS and cannot come back from a session with 2-octet AS numbers.
    prop_oneof![1..65536_u32, 65536..=u32::MAX].prop_filter("AS_TRANS", |asn| *asn != 23456)
}

fn octets(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn capability() -> impl Strategy<Value = Capability> {
    let families = vec((family(), any::<bool>()), 0..4);
    let restart = (any::<[bool; 2]>(), 0..4096_u16, families).prop_map(|(flags, restart_time, families)| {
        let [restarting, notification] = flags;
        Capability::GracefulRestart(GracefulRestart { restarting, notification, restart_time, families })
    });
    let long_lived = (family(), any::<bool>(), 0..1_u32 << 24)
        .prop_map(|(family, forwarding, stale_time)| LongLived { family, forwarding, stale_time });
    let code = any::<u8>().prop_filter("known", |code| ![1, 2, 5, 6, 9, 64, 65, 69, 70, 71].contains(code));
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRouteRefresh),
        Just(Capability::Role(Role::Customer)),
        restart,
        vec((family(), (1..4_u8).prop_map(|mode| AddPathMode::from_octet(mode).unwrap())), 0..4)
            .prop_map(Capability::AddPath),
        vec(long_lived, 0..4).prop_map(Capability::LongLived),
        (code, octets(256)).prop_map(|(code, value)| Capability::Other(code, value)),
    ]
}

fn open() -> impl Strategy<Value = Message> {
    let hold = prop_oneof![Just(0), 3..=u16::MAX];
    (asn(), hold, 1..=u32::MAX, vec(capability(), 0..12), any::<Index>()).prop_map(
        |(asn, hold_time, router_id, mut capabilities, at)| {
            capabilities.insert(at.index(capabilities.len() + 1), Capability::FourOctetAs(asn));
            Message::Open(Open { asn, hold_time, router_id: router_id.into(), capabilities })
        },
    )
}

fn prefix_of(family: Family) -> BoxedStrategy<Prefix> {
    match family {
        Family::Ipv4Unicast => (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, length)| Prefix::new(Ipv4Addr::from_bits(bits).into(), length).unwrap())
            .boxed(),
        Family::Ipv6Unicast => (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, length)| Prefix::new(Ipv6Addr::from_bits(bits).into(), length).unwrap())
            .boxed(),
    }
}

/// Path Identifiers from a small range.
fn nlri(family: Family) -> impl Strategy<Value = Nlri> {
    let path_id = prop_oneof![0..3_u32, any::<u32>()];
    (prefix_of(family), path_id).prop_map(|(prefix, path_id)| Nlri { prefix, path_id: Some(path_id) })
}

/// Returns what remains of an UPDATE on such a session: Path Identifiers only if they were negotiated.
fn carried(mut update: Update, codec: &Codec) -> Update {
    let reached = update.reach.iter_mut().flat_map(|reach| &mut reach.prefixes);
    for nlri in reached.chain(&mut update.withdrawn) {
        nlri.path_id = nlri.path_id.filter(|_| codec.path_ids.send.contains(nlri.prefix.family()));
    }
    update
}

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        vec(asn(), 1..=255).prop_map(Segment::Sequence),
        vec(asn(), 1..6).prop_map(Segment::Sequence),
        vec(asn(), 1..6).prop_map(Segment::Set),
    ]
}

fn unknown() -> impl Strategy<Value = Unknown> {
    // With the Partial bit set, so that passing on does not change them. Recognized attributes have tests of their own.
    let code = prop_oneof![11..14_u8, 19..25_u8, 33..35_u8, 36..=255_u8];
    (code, octets(400)).prop_map(|(code, value)| Unknown { flags: 0xe0, code, value })
}

prop_compose! {
    fn attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        segments in vec(segment(), 0..3),
        numbers in (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>())),
        atomic_aggregate: bool,
        aggregator in option::of((asn(), any::<u32>())),
        communities in btree_set(any::<u32>(), 0..20),
        extended in btree_set(any::<[u8; 8]>(), 0..5),
        large in btree_set(any::<(u32, u32, u32)>(), 0..5),
        only_to_customer in option::of(any::<u32>()),
        clusters in vec(any::<u32>(), 0..5),
        unknown in vec(unknown(), 0..4),
    ) -> Attributes {
        let (med, local_pref, originator) = numbers;
        let unknown: std::collections::BTreeMap<u8, Unknown> =
            unknown.into_iter().map(|unknown| (unknown.code, unknown)).collect();
        Attributes {
            origin,
            as_path: AsPath(segments),
            med,
            local_pref,
            atomic_aggregate,
            aggregator: aggregator.map(|(asn, address)| Aggregator { asn, address: address.into() }),
            communities: communities.into_iter().collect(),
            originator_id: originator.map(Ipv4Addr::from_bits),
            cluster_list: clusters.into_iter().map(Ipv4Addr::from_bits).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large
                .into_iter()
                .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                .collect(),
            only_to_customer,
            unknown: unknown.into_values().collect(),
        }
    }
}

fn next_hop(family: Family) -> BoxedStrategy<NextHop> {
    match family {
        Family::Ipv4Unicast => (0x0100_0000..0xe000_0000_u32)
            .prop_map(|bits| NextHop { address: Ipv4Addr::from_bits(bits).into(), link_local: None })
            .boxed(),
        Family::Ipv6Unicast => (1..0xff_u128 << 120, option::of(any::<u64>()))
            .prop_map(|(bits, low)| NextHop {
                address: Ipv6Addr::from_bits(bits).into(),
                link_local: low.map(|low| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low))),
            })
            .boxed(),
    }
}

fn reach(family: Family, max: usize) -> impl Strategy<Value = Reach> {
    (next_hop(family), vec(nlri(family), 1..max)).prop_map(move |(next_hop, prefixes)| Reach {
        family,
        next_hop,
        prefixes,
    })
}

/// An UPDATE that advertises and withdraws fewer than `max` prefixes in each family, and may have an End-of-RIB.
fn update(max: usize) -> impl Strategy<Value = Update> {
    let [v4, v6] = BOTH;
    let withdrawn = (vec(nlri(v4), 0..max), vec(nlri(v6), 0..max));
    (withdrawn, attributes(), option::of(reach(v4, max)), option::of(reach(v6, max)), option::of(family()))
        .prop_map(|((mut withdrawn, more), attributes, v4, v6, end_of_rib)| {
            withdrawn.extend(more);
            let reach: Vec<Reach> = v4.into_iter().chain(v6).collect();
            let attributes = (!reach.is_empty()).then_some(attributes);
            Update { attributes, reach, withdrawn, end_of_rib, faults: vec![] }
        })
}

fn codec() -> impl Strategy<Value = Codec> {
    (any::<bool>(), btree_set(family(), 0..=2)).prop_map(|(four_octet_as, families)| {
        let path_ids = families.into_iter().collect();
        let path_ids = PathIds { receive: path_ids, send: path_ids };
        Codec { four_octet_as, path_ids, ..INTERNAL }
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let data = octets(64);
    prop_oneof![
        open(),
        // Small ones, whose attributes are likely to be damaged, and ones that take several messages.
        update(4).prop_map(Message::Update),
        update(4).prop_map(Message::Update),
        update(900).prop_map(Message::Update),
        (any::<u8>(), any::<u8>(), data)
            .prop_map(|(code, subcode, data)| Message::Notification(Notification { code, subcode, data })),
        Just(Message::Keepalive),
        (option::of(family()), 0..5_u8).prop_map(|(f, s)| Message::RouteRefresh(f, Refresh::from_octet(s))),
    ]
}

/// Joins what was split into messages.
fn join(messages: Vec<Message>) -> Update {
    let mut joined = Update::default();
    for message in messages {
        let Message::Update(update) = message else { panic!("{message:?}") };
        joined.withdrawn.extend(update.withdrawn);
        joined.faults.extend(update.faults);
        joined.end_of_rib = joined.end_of_rib.or(update.end_of_rib);
        if let Some(attributes) = update.attributes {
            assert!(joined.attributes.is_none_or(|before| before == attributes), "one set of attributes");
            joined.attributes = Some(attributes);
        }
        for reach in update.reach {
            match joined.reach.last_mut() {
                Some(last) if last.family == reach.family && last.next_hop == reach.next_hop => {
                    last.prefixes.extend(reach.prefixes);
                }
                _ => joined.reach.push(reach),
            }
        }
    }
    joined
}

/// Damages octets: some are changed, removed or repeated.
fn mutate(mut bytes: Vec<u8>, edits: &[(Index, u8, u8)]) -> Vec<u8> {
    for (at, kind, value) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind % 4 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => drop(bytes.drain(at..(at + usize::from(*value)).min(bytes.len()))),
            _ => bytes.insert(at, *value),
        }
    }
    bytes
}

/// Splits messages into type and body, so that bodies can be damaged below a valid header.
fn bodies(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut framer = Framer::new();
    framer.push(bytes);
    std::iter::from_fn(|| framer.next().unwrap())
        .map(|frame| (frame.kind.octet(), frame.body.to_vec()))
        .collect()
}

proptest! {
    #[test]
    fn open_round_trip(message in open()) {
        prop_assert_eq!(read_one(&write(&message, &INTERNAL), &Codec::default()), message);
    }

    #[test]
    fn small_messages_round_trip(message in any_message()) {
        if !matches!(message, Message::Update(_)) {
            prop_assert_eq!(read_one(&write(&message, &INTERNAL), &INTERNAL), message);
        }
    }

    #[test]
    fn update_round_trip(update in update(900), codec in codec()) {
        let update = carried(update, &codec);
        let written = write(&Message::Update(update.clone()), &codec);
        prop_assert_eq!(join(read(&written, &codec).unwrap()), update);
    }

    /// A message that was decoded and encoded once stays the same.
    #[test]
    fn encoding_is_stable(update in update(900), codec in codec()) {
        let written = write(&Message::Update(update), &codec);
        let mut again = Vec::new();
        for message in read(&written, &codec).unwrap() {
            again.extend(write(&message, &codec));
        }
        prop_assert_eq!(again, written);
    }

    #[test]
    fn chunks_do_not_matter(
        messages in vec(any_message(), 1..4),
        cuts in vec(1..3000_usize, 1..20),
    ) {
        let mut stream = BytesMut::new();
        messages.iter().for_each(|message| encode(message, &INTERNAL, &mut stream));
        let whole = bodies(&stream);
        let mut framer = Framer::new();
        let mut frames = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (chunk, later) = rest.split_at((*cut).min(rest.len()));
            framer.push(chunk);
            while let Some(frame) = framer.next().unwrap() {
                frames.push((frame.kind.octet(), frame.body.to_vec()));
            }
            prop_assert!(framer.buffered() < 4096);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(frames, whole);
    }

    #[test]
    fn arbitrary_streams_never_panic(bytes in vec(any::<u8>(), 0..5000), codec in codec()) {
        let _ = read(&bytes, &codec);
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        kind in 1..=5_u8,
        body in vec(prop_oneof![0..20_u8, any::<u8>()], 0..300),
        codec in codec(),
        external: bool,
    ) {
        let _ = read(&message(kind, &body), &Codec { external, ..codec });
    }

    /// A damaged message results in a reset with at most 64 octets of data, an UPDATE without faults, or one with faults;
    /// and what remains of it can be passed on.
    #[test]
    fn spoilt_messages_never_panic_and_stay_consistent(
        message_in in any_message(),
        edits in vec((any::<Index>(), any::<u8>(), any::<u8>()), 1..6),
        codec in codec(),
        external: bool,
    ) {
        let codec = Codec { external, ..codec };
        let written = write(&message_in, &codec);
        let _ = read(&mutate(written.clone(), &edits), &codec);
        for (kind, body) in bodies(&written) {
            let mut body = mutate(body, &edits);
            body.truncate(4096 - 19);
            match read(&message(kind, &body), &codec) {
                Err(error) => prop_assert!(error.notification.data.len() <= 64),
                Ok(messages) => {
                    for message in messages {
                        check_passed_on(&message, &codec)?;
                    }
                }
            }
        }
    }
}

/// A decoded message that is encoded for a peer has no faults there.
fn check_passed_on(message: &Message, codec: &Codec) -> Result<(), TestCaseError> {
    let Message::Update(update) = message else { return Ok(()) };
    prop_assert_eq!(update.attributes.is_some(), !update.reach.is_empty());
    let withdraws = update.faults.iter().any(|f| f.action == crate::wire::FaultAction::TreatAsWithdraw);
    prop_assert!(!withdraws || update.reach.is_empty());
    // LOCAL_PREF and the like are removed by the tables for an external peer; here the peer is internal.
    let codec = Codec { external: false, ..*codec };
    let again = read(&write(message, &codec), &codec).unwrap();
    for message in &again {
        let Message::Update(update) = message else { panic!() };
        prop_assert_eq!(&update.faults, &[]);
    }
    Ok(())
}
