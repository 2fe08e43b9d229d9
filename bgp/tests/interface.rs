//! The public interface as another crate uses it: every constructor with every setter, and matches on what is returned.
//! Adding a setting, an event, an action, a reason or a field of a report must not break this file: nothing in it is
//! changed together with the interface.
#![allow(clippy::disallowed_methods, reason = "the test needs a start of time")]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use heliograph_bgp::policy::{
    Action, AsPathMatch, Community, Condition, Modification, Policy, PrefixMatch, RouteSource, Rule,
};
use heliograph_bgp::report::{
    BestRoute, PathReason, PathReport, SessionError, SessionReason, SessionReport, SessionState, StopReason,
    Warning,
};
use heliograph_bgp::speaker::{self, Event};
use heliograph_bgp::{
    AddPath, AoAlgorithm, AoKey, Authentication, Config, ConfigError, ExtendedCommunity, Family, Filter,
    GracefulRestart, Key, LargeCommunity, ListenRange, Neighbor, Network, NextHopMode, Prefix, PrefixLimit,
    PrefixRange, Role, Speaker, Timers, Ttl,
};

const SECOND: Duration = Duration::from_secs(1);

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn policy() -> Policy {
    let conditions = [
        Condition::Prefix(vec![PrefixMatch::new(prefix("10.0.0.0/8"), 8, 24)]),
        Condition::Communities(vec![Community::Extended(ExtendedCommunity([0; 8]))]),
        Condition::Not(Box::new(Condition::AsPath(AsPathMatch::AtMost(3)))),
        Condition::NextHop(vec![prefix("192.0.2.0/24")]),
        Condition::Source(RouteSource::External),
    ];
    let modifications = [
        Modification::Add(Community::Standard(1)),
        Modification::LocalPref(200),
        Modification::Med(None),
        Modification::Prepend(2),
    ];
    let rule = Rule::new("a").conditions(conditions).modifications(modifications).action(Action::Accept);
    Policy::new(vec![rule], Action::Reject).expect("valid")
}

fn config() -> Config {
    let timers = Timers::default()
        .hold(30 * SECOND)
        .keepalive(5 * SECOND)
        .connect_retry(SECOND)
        .idle_hold(SECOND)
        .send_hold(60 * SECOND);
    let neighbor = |address: &str| {
        let ao = AoKey::new(1, 2, AoAlgorithm::HmacSha1, Key::new(*b"secret"));
        Neighbor::new(address.parse().expect("an address"), 64501)
            .port(1790)
            .name("a")
            .local_asn(64502)
            .reflector_client(false)
            .local_address(IpAddr::from([192, 0, 2, 1]))
            .passive(true)
            .families([Family::Ipv4Unicast])
            .timers(timers)
            .extended_next_hop(true)
            .add_path(AddPath::default().receive(true).send(NonZeroU8::MIN))
            .role(Role::Provider)
            .strict_role(true)
            .prefix_limit(PrefixLimit::new(10).warn_percent(50).restart(SECOND))
            .ttl(Ttl::Hops(2))
            .authentication(Authentication::Ao(ao))
            .next_hop_mode(NextHopMode::Automatic)
            .import(Filter::Rules(policy()))
            .export(Filter::Only(vec![PrefixRange::new(prefix("10.0.0.0/8"), 24)]))
    };
    let large = Community::Large(LargeCommunity { global: 1, local1: 2, local2: 3 });
    let network = Network::new(prefix("10.1.0.0/16"))
        .next_hop(IpAddr::from([192, 0, 2, 1]))
        .communities([large])
        .med(1)
        .local_pref(2);
    let restart = GracefulRestart::default()
        .restart_time(60 * SECOND)
        .selection_deferral(30 * SECOND)
        .notifications(true)
        .long_lived(3600 * SECOND);
    Config::new(64512, Ipv4Addr::new(192, 0, 2, 1))
        .cluster_id(Ipv4Addr::new(192, 0, 2, 9))
        .graceful_restart(restart)
        .graceful_shutdown(true)
        .networks([network])
        .neighbors([neighbor("192.0.2.2")])
        .ranges([ListenRange::new(prefix("198.51.100.0/24"), 2, neighbor("198.51.100.1"))])
}

/// Every match has an arm for what is added later.
fn describe(session: &SessionReport) -> String {
    let SessionReport { address, state, reason, last_error, .. } = session;
    let reason = match reason {
        SessionReason::Error(SessionError::ConnectFailed { error, .. }) => error.clone(),
        SessionReason::Error(SessionError::NotificationReceived(notification)) => notification.to_string(),
        SessionReason::Stopped(StopReason::Removed) => "removed".into(),
        reason => reason.to_string(),
    };
    let error = last_error.as_ref().map_or(String::new(), |(error, _)| error.to_string());
    format!("{address} {state} {reason} {error}")
}

fn path(path: &PathReport) -> bool {
    let PathReport { best, reason, .. } = path;
    *best || matches!(reason, PathReason::NotBest(_))
}

#[test]
fn another_crate_can_make_and_read_every_value() {
    let now = Instant::now();
    let mut speaker = Speaker::new(config(), false, now, 1).expect("valid");
    let remote = "192.0.2.2:40000".parse().expect("an address");
    let conn =
        speaker.accept(now, "192.0.2.1:1790".parse().expect("an address"), remote).expect("a neighbor");
    speaker.closed(now, conn, "reset".into());
    while let Some(action) = speaker.poll_action() {
        match action {
            speaker::Action::Connect { conn, .. } => speaker.connect_failed(now, conn, "refused".into()),
            speaker::Action::Close { conn, .. } => speaker.closed(now, conn, "closed".into()),
            _ => {}
        }
    }
    while let Some(event) = speaker.poll_event() {
        match event {
            Event::SessionUp { address, .. } | Event::SessionDown { address, .. } => println!("{address}"),
            Event::Warning { warning: Warning::PrefixLimit(count), .. } => println!("{}", count.max),
            _ => {}
        }
    }
    let sessions = speaker.sessions(now);
    assert_eq!(
        sessions.iter().map(describe).collect::<Vec<_>>(),
        ["192.0.2.2 Active reset, in OpenSent reset, in OpenSent"]
    );
    assert_eq!(sessions[0].state, SessionState::Active);
    assert!(speaker.paths().iter().all(path));
    let route =
        BestRoute::new(prefix("10.0.0.0/8"), IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 1]));
    assert_ne!(speaker.best_routes(), [route]);
    match speaker.set_config(now, config().asn(0)) {
        Err(ConfigError::AsnZero { what, .. }) => assert_eq!(what, "our own AS"),
        other => panic!("{other:?}"),
    }
}
