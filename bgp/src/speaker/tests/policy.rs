//! Import and export rules, and their changes on established sessions.

use super::*;
use crate::policy::{
    Action, AsPathMatch, Community, Condition, Modification, Policy, PrefixMatch, RouteSource, Rule,
};
use crate::wire::{AsPath, Refresh, Segment};

const THEIRS: u32 = 64600;

fn within(n: u16) -> Condition {
    Condition::Prefix(vec![PrefixMatch { within: prefix(n), min_length: 24, max_length: 32 }])
}

fn rule(
    name: &str,
    conditions: Vec<Condition>,
    modifications: Vec<Modification>,
    action: Option<Action>,
) -> Rule {
    Rule { name: name.into(), conditions, modifications, action }
}

fn rules(rules: Vec<Rule>, otherwise: Action) -> Filter {
    Filter::Rules(Policy::new(rules, otherwise).expect("valid"))
}

fn external(n: u8) -> Neighbor {
    Neighbor { asn: THEIRS, ..neighbor(n) }
}

fn theirs() -> Attributes {
    Attributes { as_path: AsPath(vec![Segment::Sequence(vec![THEIRS])]), ..Attributes::local() }
}

#[test]
fn import_rules_filter_and_modify() {
    let import = rules(
        vec![
            rule("not-this", vec![within(1)], vec![], Some(Action::Reject)),
            rule(
                "low",
                vec![within(2)],
                vec![Modification::LocalPref(10), Modification::Prepend(2)],
                Some(Action::Accept),
            ),
            rule("", vec![within(3)], vec![Modification::Add(Community::Standard(7))], Some(Action::Accept)),
        ],
        Action::Reject,
    );
    let mut play = Play::new(config(vec![Neighbor { import, ..external(1) }, client(2)]));
    let (one, two) = (play.up_with(1, Play::open(1, THEIRS)), play.up(2));
    play.sent(two);
    play.advertise_with(one, 1, (1..=4).map(prefix).collect(), theirs());
    let paths = play.speaker.paths();
    let reasons: Vec<String> = paths.iter().map(|path| path.reason.to_string()).collect();
    let seen: Vec<_> = std::iter::zip(&paths, &reasons)
        .map(|(path, reason)| (path.local_pref, &path.as_path[..], path.best, &reason[..]))
        .collect();
    assert_eq!(seen[0], (100, "64600", false, "import policy: rule not-this rejects it"));
    assert_eq!((seen[1].0, seen[1].1, seen[1].2), (10, "64600 64600 64600", true));
    assert_eq!((seen[2].0, seen[2].1, seen[2].2), (100, "64600", true));
    assert_eq!(seen[3], (100, "64600", false, "import policy: no rule accepts it"));
    let mut updates = play.updates(two);
    updates.sort_by_key(|update| update.reach[0].prefixes[0]);
    let sent: Vec<_> =
        updates.iter().map(|u| u.attributes.as_ref().expect("a reach").communities.clone()).collect();
    assert_eq!(sent, [vec![], vec![7]]);
}

#[test]
fn export_rules_filter_and_modify_each_prefix() {
    let export = rules(
        vec![
            rule(
                "",
                vec![within(1)],
                vec![Modification::Med(Some(5)), Modification::Prepend(1)],
                Some(Action::Accept),
            ),
            rule(
                "",
                vec![within(2)],
                vec![Modification::LocalPref(9), Modification::NextHopSelf],
                Some(Action::Accept),
            ),
            rule("", vec![Condition::Source(RouteSource::Local)], vec![], Some(Action::Accept)),
        ],
        Action::Reject,
    );
    let neighbors =
        vec![client(1), Neighbor { export: export.clone(), ..external(2) }, Neighbor { export, ..client(3) }];
    let networks = vec![Network::new(prefix(9))];
    let mut play = Play::new(Config { networks, ..config(neighbors) });
    let (one, two, three) = (play.up(1), play.up_with(2, Play::open(2, THEIRS)), play.up(3));
    play.advertise(one, 1, (1..=4).map(prefix).collect());
    let mut sent = |conn| {
        let mut sent = Vec::new();
        for update in play.updates(conn).into_iter().filter(|update| !update.reach.is_empty()) {
            let attributes = update.attributes.expect("a reach");
            for reach in update.reach {
                let hop = reach.next_hop.address;
                let of = |p: crate::wire::Nlri| {
                    (p.prefix, attributes.as_path.hops(), attributes.med, attributes.local_pref, hop)
                };
                sent.extend(reach.prefixes.into_iter().map(of));
            }
        }
        sent.sort();
        sent
    };
    let (us, them) = (address(100), address(1));
    assert_eq!(
        sent(two),
        [(prefix(1), 2, Some(5), None, us), (prefix(2), 1, None, None, us), (prefix(9), 1, None, None, us)]
    );
    assert_eq!(
        sent(three),
        [
            (prefix(1), 1, Some(5), Some(100), them),
            (prefix(2), 0, None, Some(9), us),
            (prefix(9), 0, None, Some(100), us)
        ]
    );
}

/// A change of export rules applies to the Loc-RIB; a change of import rules needs the routes again (RFC 2918). No session
/// is reset.
#[test]
fn rules_change_live() {
    let accept = |modification| rules(vec![rule("", vec![], vec![modification], None)], Action::Accept);
    let mut config = config(vec![client(1), client(2)]);
    let mut play = Play::new(config.clone());
    let (one, two) = (play.up(1), play.up(2));
    play.advertise(one, 1, vec![prefix(1)]);
    play.sent(one);
    play.sent(two);
    let med = |play: &mut Play| {
        let updates = play.updates(two);
        updates.last().and_then(|update| update.attributes.as_ref()?.med)
    };
    config.neighbors[1].export = accept(Modification::Med(Some(1)));
    play.set(config.clone());
    assert_eq!(med(&mut play), Some(1));
    config.neighbors[1].export = Filter::All;
    play.set(config.clone());
    assert_eq!(med(&mut play), None);

    let asked = [Message::RouteRefresh(Some(Family::Ipv4Unicast), Refresh::Request)];
    for (import, expected) in [
        (accept(Modification::Med(Some(2))), Some(2)),
        (accept(Modification::Med(Some(3))), Some(3)),
        (
            rules(vec![rule("", vec![Condition::AsPath(AsPathMatch::Empty)], vec![], None)], Action::Accept),
            None,
        ),
        (Filter::All, None),
    ] {
        config.neighbors[0].import = import;
        play.set(config.clone());
        assert_eq!(play.sent(one), asked);
        play.advertise(one, 1, vec![prefix(1)]);
        play.updates(two);
        assert_eq!(play.speaker.paths()[0].med, expected.unwrap_or(0));
    }
    config.neighbors[0].import = rules(vec![], Action::Reject);
    play.set(config.clone());
    play.advertise(one, 1, vec![prefix(1)]);
    assert_eq!(play.speaker.best_routes(), []);
    config.graceful_shutdown = true;
    play.set(config);
    assert_eq!(play.speaker.best_routes(), [], "a review does not let in what rules rejected");
    assert!((1..=2).all(|n| play.report(n).established_count == 1));
}

/// Without route refresh, the session is reset instead.
#[test]
fn without_route_refresh_the_session_is_reset() {
    let mut config = config(vec![client(1)]);
    let mut play = Play::new(config.clone());
    let mut open = Play::open(1, ASN);
    open.capabilities.retain(|capability| *capability != Capability::RouteRefresh);
    let one = play.up_with(1, open);
    play.sent(one);
    config.neighbors[0].import = rules(vec![], Action::Accept);
    play.set(config);
    assert!(matches!(play.sent(one)[..], [Message::Notification(_)]));
    assert!(play.connect(1).is_some());
}

#[test]
fn next_hop_self_is_for_export() {
    let us = rules(vec![rule("", vec![], vec![Modification::NextHopSelf], None)], Action::Accept);
    let config = config(vec![Neighbor { import: us, ..client(1) }]);
    assert!(config.validate().expect_err("invalid").to_string().contains("set it in the export filter"));
}
