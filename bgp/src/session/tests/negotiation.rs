//! Negotiation beyond RFC 4271.

use super::*;
use crate::wire::{Refresh, Role, open_error};

fn our_open(settings: Settings) -> Open {
    let mut bench = Bench::new(settings);
    let conn = bench.attempt();
    bench.connected(conn);
    match bench.sent(conn).remove(0) {
        Message::Open(open) => open,
        other => panic!("{other:?}"),
    }
}

fn codec(settings: Settings, open: Open) -> Codec {
    Bench::up(settings, open).0.session.negotiated().expect("up").codec
}

/// RFC 8654 §4: we receive them from every peer, and send them to peers that offer to receive them.
#[test]
fn extended_messages() {
    assert!(our_open(settings()).offers(&Capability::ExtendedMessage));
    assert_eq!(codec(settings(), open()).max_message, 4096);
    assert_eq!(codec(settings(), with(open(), Capability::ExtendedMessage)).max_message, 65535);
    let (mut bench, conn) = Bench::up(settings(), open());
    let prefixes =
        (0..5000_u32).map(|n| wire::Prefix::new(Ipv4Addr::from_bits(n << 8).into(), 24).expect("fits"));
    let update = Update { withdrawn: prefixes.map(wire::Nlri::from).collect(), ..Update::default() };
    let mut bytes = BytesMut::new();
    let large = Codec { max_message: 65535, ..Codec::DEFAULT };
    wire::encode(&Message::Update(update), &large, &mut bytes);
    assert!(bytes.len() > 20_000);
    bench.receive_bytes(conn, &bytes);
    assert!(matches!(&bench.take()[..], [Output::Update(update)] if update.withdrawn.len() == 5000));
}

#[test]
fn ipv6_next_hops_for_ipv4_if_both_sides_offer_them() {
    let mut wanting = settings();
    wanting.neighbor.extended_next_hop = true;
    assert!(our_open(wanting.clone()).offers(&Capability::ExtendedNextHop));
    assert!(!our_open(settings()).offers(&Capability::ExtendedNextHop));
    let offered = || with(open(), Capability::ExtendedNextHop);
    assert!(codec(wanting.clone(), offered()).extended_next_hop);
    assert!(!codec(wanting, open()).extended_next_hop);
    assert!(!codec(settings(), offered()).extended_next_hop);
}

fn external(role: Option<Role>, strict_role: bool) -> Settings {
    let mut settings = settings();
    settings.neighbor.asn = 64600;
    (settings.neighbor.role, settings.neighbor.strict_role) = (role, strict_role);
    settings
}

fn claims(capabilities: Vec<Capability>) -> Open {
    let open = Open { asn: 64600, capabilities: vec![Capability::FourOctetAs(64600)], ..open() };
    capabilities.into_iter().fold(open, with)
}

/// RFC 9234 §4.2, table 2.
#[test]
fn roles_must_fit() {
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
    let all = [Provider, RouteServer, RouteServerClient, Customer, Peer];
    let fits = |ours, theirs| {
        let fit = [(Provider, Customer), (RouteServer, RouteServerClient), (Peer, Peer)];
        fit.contains(&(ours, theirs)) || fit.contains(&(theirs, ours))
    };
    for ours in all {
        for theirs in all {
            let mut bench = Bench::new(external(Some(ours), false));
            let conn = bench.attempt();
            bench.connected(conn);
            bench.receive(conn, &Message::Open(claims(vec![Capability::Role(theirs)])));
            match fits(ours, theirs) {
                true => assert_eq!(bench.state(), SessionState::OpenConfirm),
                false => assert_eq!(bench.last_notification(conn), (code::OPEN, open_error::ROLE)),
            }
        }
    }
}

#[test]
fn a_missing_or_invalid_role() {
    let unassigned = Capability::Other(9, vec![77].into());
    let twice = vec![Capability::Role(Role::Customer); 2];
    let several = vec![Capability::Role(Role::Customer), Capability::Role(Role::Peer)];
    for (strict, capabilities, accepted) in [
        (false, vec![], true),
        (true, vec![], false),
        (true, twice, true),
        (false, several, false),
        (false, vec![unassigned], false),
    ] {
        let mut bench = Bench::new(external(Some(Role::Provider), strict));
        let conn = bench.attempt();
        bench.connected(conn);
        bench.receive(conn, &Message::Open(claims(capabilities.clone())));
        assert_eq!(bench.state() == SessionState::OpenConfirm, accepted, "{capabilities:?}");
    }
    let (bench, _) = Bench::up(external(None, false), claims(vec![Capability::Role(Role::Peer)]));
    assert_eq!(bench.state(), SessionState::Established, "without a role configured any is accepted");
}

/// RFC 7313 §4: paths that are not sent again between BoRR and EoRR are removed.
#[test]
fn an_enhanced_refresh_marks_and_sweeps() {
    const V4: Family = Family::Ipv4Unicast;
    let (mut bench, conn) = Bench::up(settings(), with(open(), Capability::EnhancedRouteRefresh));
    bench.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::Request));
    assert_eq!(bench.take(), [Output::Refresh { family: V4, enhanced: true }]);
    bench.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::Unknown(9)));
    assert!(bench.take().is_empty());
    bench.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::Begin));
    assert_eq!(bench.take(), [Output::MarkStale(V4)]);
    bench.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::End));
    assert_eq!(bench.take(), [Output::DropStale(Some(V4))]);
    bench.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::End));
    assert!(bench.take().is_empty(), "an end without a beginning");
}

#[test]
fn without_agreement_every_refresh_is_a_request() {
    let (mut bench, conn) = Bench::up(settings(), open());
    bench.receive(conn, &Message::RouteRefresh(Some(Family::Ipv4Unicast), Refresh::Begin));
    assert_eq!(bench.take(), [Output::Refresh { family: Family::Ipv4Unicast, enhanced: false }]);
}

/// RFC 7911 §4: each direction by itself, if the sender offers to send and the receiver to receive.
#[test]
fn path_identifiers_need_both_sides() {
    use crate::config::AddPath;
    use crate::wire::AddPathMode::{Both, Receive, Send};
    let [v4, v6] = FAMILIES;
    let ours = |receive, send| {
        let mut settings = settings();
        settings.neighbor.add_path = AddPath { receive, send: std::num::NonZeroU8::new(send) };
        settings
    };
    let offered = |mode| vec![Capability::AddPath(vec![(v4, mode), (v6, mode)])];
    let sent = |settings| our_open(settings).capabilities;
    assert!(!sent(settings()).iter().any(|c| matches!(c, Capability::AddPath(_))));
    for (receive, send, mode) in [(true, 0, Receive), (false, 3, Send), (true, 1, Both)] {
        assert!(sent(ours(receive, send)).contains(&offered(mode)[0]));
    }
    for (receive, send, theirs, receives, sends) in [
        (true, 2, Both, true, true),
        (true, 2, Send, true, false),
        (true, 2, Receive, false, true),
        (true, 0, Both, true, false),
        (false, 2, Both, false, true),
        (true, 0, Receive, false, false),
        (false, 0, Both, false, false),
    ] {
        let path_ids = codec(ours(receive, send), with(open(), offered(theirs).remove(0))).path_ids;
        for family in FAMILIES {
            let agreed = (path_ids.receive.contains(family), path_ids.send.contains(family));
            assert_eq!(agreed, (receives, sends), "{receive} {send} {theirs:?}");
        }
    }
    let v6_only = with(open(), Capability::AddPath(vec![(v6, Both)]));
    let path_ids = codec(ours(true, 2), v6_only).path_ids;
    assert!(path_ids.send.contains(v6) && !path_ids.send.contains(v4) && !path_ids.receive.contains(v4));
    assert_eq!(codec(ours(true, 2), open()).path_ids, wire::PathIds::NONE);
}
