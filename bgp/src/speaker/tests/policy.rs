//! Rules on import and export, and their change while sessions stand.

use super::*;
use crate::policy::{
    AsPathMatch, Change, Community, Condition, Policy, PrefixMatch, RouteSource, Rule, Verdict,
};
use crate::wire::{AsPath, Refresh, Segment};

const THEIRS: u32 = 64600;

fn within(n: u16) -> Condition {
    Condition::Prefix(vec![PrefixMatch { within: prefix(n), min_length: 24, max_length: 32 }])
}

fn rule(name: &str, conditions: Vec<Condition>, changes: Vec<Change>, verdict: Option<Verdict>) -> Rule {
    Rule { name: name.into(), conditions, changes, verdict }
}

fn rules(rules: Vec<Rule>, otherwise: Verdict) -> Filter {
    Filter::Rules(Policy::new(rules, otherwise).expect("valid"))
}

fn external(n: u8) -> Neighbor {
    Neighbor { asn: THEIRS, ..neighbor(n) }
}

fn theirs() -> Attributes {
    Attributes { as_path: AsPath(vec![Segment::Sequence(vec![THEIRS])]), ..Attributes::local() }
}

#[test]
fn import_rules_choose_and_change() {
    let import = rules(
        vec![
            rule("not-this", vec![within(1)], vec![], Some(Verdict::Reject)),
            rule(
                "low",
                vec![within(2)],
                vec![Change::LocalPref(10), Change::Prepend(2)],
                Some(Verdict::Accept),
            ),
            rule("", vec![within(3)], vec![Change::Add(Community::Standard(7))], Some(Verdict::Accept)),
        ],
        Verdict::Reject,
    );
    let mut play = Play::new(config(vec![Neighbor { import, ..external(1) }, client(2)]));
    let (one, two) = (play.up_with(1, Play::open(1, THEIRS)), play.up(2));
    play.told(two);
    play.announce_with(one, 1, (1..=4).map(prefix).collect(), theirs());
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
    let told: Vec<_> =
        updates.iter().map(|u| u.attributes.as_ref().expect("a reach").communities.clone()).collect();
    assert_eq!(told, [vec![], vec![7]]);
}

#[test]
fn export_rules_choose_and_change_prefix_by_prefix() {
    let export = rules(
        vec![
            rule("", vec![within(1)], vec![Change::Med(Some(5)), Change::Prepend(1)], Some(Verdict::Accept)),
            rule("", vec![within(2)], vec![Change::LocalPref(9), Change::NextHopSelf], Some(Verdict::Accept)),
            rule("", vec![Condition::Source(RouteSource::Local)], vec![], Some(Verdict::Accept)),
        ],
        Verdict::Reject,
    );
    let neighbors =
        vec![client(1), Neighbor { export: export.clone(), ..external(2) }, Neighbor { export, ..client(3) }];
    let networks = vec![Network::new(prefix(9))];
    let mut play = Play::new(Config { networks, ..config(neighbors) });
    let (one, two, three) = (play.up(1), play.up_with(2, Play::open(2, THEIRS)), play.up(3));
    play.announce(one, 1, (1..=4).map(prefix).collect());
    let mut told = |conn| {
        let mut told = Vec::new();
        for update in play.updates(conn).into_iter().filter(|update| !update.reach.is_empty()) {
            let attributes = update.attributes.expect("a reach");
            for reach in update.reach {
                let hop = reach.next_hop.address;
                let of = |p: crate::wire::Nlri| {
                    (p.prefix, attributes.as_path.hops(), attributes.med, attributes.local_pref, hop)
                };
                told.extend(reach.prefixes.into_iter().map(of));
            }
        }
        told.sort();
        told
    };
    let (us, them) = (address(100), address(1));
    assert_eq!(
        told(two),
        [(prefix(1), 2, Some(5), None, us), (prefix(2), 1, None, None, us), (prefix(9), 1, None, None, us)]
    );
    assert_eq!(
        told(three),
        [
            (prefix(1), 1, Some(5), Some(100), them),
            (prefix(2), 0, None, Some(9), us),
            (prefix(9), 0, None, Some(100), us)
        ]
    );
}

/// Export rules act on what stands in the table; import rules need it told again (RFC 2918). No session is reset.
#[test]
fn rules_change_live() {
    let accept = |change| rules(vec![rule("", vec![], vec![change], None)], Verdict::Accept);
    let mut config = config(vec![client(1), client(2)]);
    let mut play = Play::new(config.clone());
    let (one, two) = (play.up(1), play.up(2));
    play.announce(one, 1, vec![prefix(1)]);
    play.told(one);
    play.told(two);
    let med = |play: &mut Play| {
        let updates = play.updates(two);
        updates.last().and_then(|update| update.attributes.as_ref()?.med)
    };
    config.neighbors[1].export = accept(Change::Med(Some(1)));
    play.set(config.clone());
    assert_eq!(med(&mut play), Some(1));
    config.neighbors[1].export = Filter::All;
    play.set(config.clone());
    assert_eq!(med(&mut play), None);

    let asked = [Message::RouteRefresh(Some(Family::Ipv4Unicast), Refresh::Request)];
    for (import, expected) in [
        (accept(Change::Med(Some(2))), Some(2)),
        (accept(Change::Med(Some(3))), Some(3)),
        (
            rules(vec![rule("", vec![Condition::AsPath(AsPathMatch::Empty)], vec![], None)], Verdict::Accept),
            None,
        ),
        (Filter::All, None),
    ] {
        config.neighbors[0].import = import;
        play.set(config.clone());
        assert_eq!(play.told(one), asked);
        play.announce(one, 1, vec![prefix(1)]);
        play.updates(two);
        assert_eq!(play.speaker.paths()[0].med, expected.unwrap_or(0));
    }
    config.neighbors[0].import = rules(vec![], Verdict::Reject);
    play.set(config.clone());
    play.announce(one, 1, vec![prefix(1)]);
    assert_eq!(play.speaker.best_routes(), []);
    config.graceful_shutdown = true;
    play.set(config);
    assert_eq!(play.speaker.best_routes(), [], "a review does not let in what rules rejected");
    assert!((1..=2).all(|n| play.report(n).established_count == 1));
}

/// A peer that cannot be asked is asked in the only other way.
#[test]
fn without_route_refresh_the_session_begins_anew() {
    let mut config = config(vec![client(1)]);
    let mut play = Play::new(config.clone());
    let mut open = Play::open(1, ASN);
    open.capabilities.retain(|capability| *capability != Capability::RouteRefresh);
    let one = play.up_with(1, open);
    play.told(one);
    config.neighbors[0].import = rules(vec![], Verdict::Accept);
    play.set(config);
    assert!(matches!(play.told(one)[..], [Message::Notification(_)]));
    assert!(play.connect(1).is_some());
}

#[test]
fn next_hop_self_is_for_export() {
    let us = rules(vec![rule("", vec![], vec![Change::NextHopSelf], None)], Verdict::Accept);
    let config = config(vec![Neighbor { import: us, ..client(1) }]);
    assert!(config.validate().expect_err("refused").to_string().contains("set it on export"));
}
