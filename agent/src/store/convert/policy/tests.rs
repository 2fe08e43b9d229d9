use super::*;
use serde_json::{Value, json};

fn read(spec: Value) -> (Option<Policy>, Vec<(String, String)>) {
    let spec: BGPFilterSpec = serde_json::from_value(spec).unwrap();
    let mut found = Vec::new();
    let policy = policy(&spec, &mut Problems::of(0, &mut found));
    (policy, found.into_iter().map(|found| (found.problem.field, found.problem.problem)).collect())
}

fn one(rule: Value) -> Rule {
    let (policy, found) = read(json!({"rules": [rule]}));
    policy.unwrap_or_else(|| panic!("{found:?}")).rules()[0].clone()
}

fn prefix(text: &str) -> heliograph_bgp::Prefix {
    text.parse::<ipnetwork::IpNetwork>().unwrap().into()
}

#[test]
fn conditions_are_converted() {
    let not = |condition| Condition::Not(Box::new(condition));
    let ten = |min_length, max_length| PrefixMatch::new(prefix("10.0.0.0/8"), min_length, max_length);
    let cases = [
        (json!({"prefixes": [{"cidr": "10.0.0.0/8"}]}), vec![Condition::Prefix(vec![ten(8, 8)])]),
        (
            json!({"prefixes": [{"cidr": "10.0.0.0/8", "maxLength": 24}]}),
            vec![Condition::Prefix(vec![ten(8, 24)])],
        ),
        (
            json!({"prefixes": [{"cidr": "10.0.0.0/8", "minLength": 16, "maxLength": 24}]}),
            vec![Condition::Prefix(vec![ten(16, 24)])],
        ),
        (
            json!({"communities": ["1:2", "no-export"]}),
            vec![Condition::Communities(vec![Community::Standard(65538), Community::Standard(0xFFFF_FF01)])],
        ),
        (json!({"asPath": {"empty": true}}), vec![Condition::AsPath(AsPathMatch::Empty)]),
        (json!({"asPath": {"empty": false}}), vec![not(Condition::AsPath(AsPathMatch::Empty))]),
        (
            json!({"asPath": {"from": 1, "origin": 2, "contains": 3, "atMost": 4}}),
            vec![
                Condition::AsPath(AsPathMatch::Contains(3)),
                Condition::AsPath(AsPathMatch::From(1)),
                Condition::AsPath(AsPathMatch::Origin(2)),
                Condition::AsPath(AsPathMatch::AtMost(4)),
            ],
        ),
        (json!({"nextHops": ["192.0.2.0/24"]}), vec![Condition::NextHop(vec![prefix("192.0.2.0/24")])]),
        (json!({"source": "External"}), vec![Condition::Source(RouteSource::External)]),
    ];
    for (given, expected) in cases {
        assert_eq!(one(json!({"action": "Accept", "match": given})).conditions, expected, "{given}");
        let negated: Vec<_> = expected.into_iter().map(not).collect();
        assert_eq!(one(json!({"action": "Accept", "unless": given})).conditions, negated, "{given}");
    }
}

#[test]
fn actions_and_modifications_are_converted() {
    for (action, expected) in
        [("Accept", Some(Action::Accept)), ("Reject", Some(Action::Reject)), ("Continue", None)]
    {
        assert_eq!(one(json!({"action": action})).action, expected);
    }
    let set = json!({"addCommunities": ["1:2:3"], "removeCommunities": ["blackhole"], "localPref": 5, "med": 6,
        "prepend": 2, "nextHopSelf": true});
    let large = LargeCommunity { global: 1, local1: 2, local2: 3 };
    let rule = one(json!({"name": "x", "action": "Continue", "set": set}));
    assert_eq!(rule.name, "x");
    assert_eq!(
        rule.modifications,
        [
            Modification::Remove(Community::Standard(0xFFFF_029A)),
            Modification::Add(Community::Large(large)),
            Modification::LocalPref(5),
            Modification::Med(Some(6)),
            Modification::Prepend(2),
            Modification::NextHopSelf,
        ]
    );
    assert_eq!(
        one(json!({"action": "Accept", "set": {"removeMED": true}})).modifications,
        [Modification::Med(None)]
    );
    let default_action = |spec| format!("{:?}", read(spec).0.unwrap());
    assert!(default_action(json!({})).contains("default_action: Reject"));
    assert!(default_action(json!({"otherwise": "Accept"})).contains("default_action: Accept"));
}

#[test]
fn communities_have_the_common_notation() {
    let extended = |octets| Some(Community::Extended(ExtendedCommunity(octets)));
    let cases = [
        ("64512:100", Some(Community::Standard(0xFC00_0064))),
        ("65536:100", None),
        ("64512:+1", None),
        ("64512", None),
        ("1:2:3:4", None),
        ("", None),
        ("no-such", None),
        ("4294967295:0:1", Some(Community::Large(LargeCommunity { global: u32::MAX, local1: 0, local2: 1 }))),
        ("rt:64512:100", extended([0, 2, 0xFC, 0, 0, 0, 0, 100])),
        ("rt:4200000000:100", extended([2, 2, 0xFA, 0x56, 0xEA, 0, 0, 100])),
        ("soo:192.0.2.1:7", extended([1, 3, 192, 0, 2, 1, 0, 7])),
        ("soo:192.0.2.1:65536", None),
        ("0x030c000000000007", extended([3, 12, 0, 0, 0, 0, 0, 7])),
        ("0x030c", None),
    ];
    for (text, expected) in cases {
        assert_eq!(community(text), expected, "{text}");
    }
}

#[test]
fn problems_have_the_field_of_the_rule() {
    let cases = [
        (
            json!({"action": "Accept", "match": {"prefixes": [{"cidr": "10.0.0.1/8"}]}}),
            "match.prefixes[0].cidr",
        ),
        (json!({"action": "Accept", "match": {"prefixes": [{"cidr": "10.0.0.0/8", "maxLength": 7}]}}), ""),
        (json!({"action": "Accept", "unless": {"communities": ["x"]}}), "unless.communities[0]"),
        (json!({"action": "Accept", "match": {"nextHops": ["x"]}}), "match.nextHops[0]"),
        (json!({"action": "Accept", "set": {"addCommunities": ["x"]}}), "set.addCommunities[0]"),
        (json!({"action": "Accept", "set": {"med": 1, "removeMED": true}}), "set.removeMED"),
        (json!({"action": "Accept", "set": {"prepend": 33}}), ""),
        (json!({"action": "Reject", "set": {"med": 1}}), ""),
    ];
    for (rule, field) in cases {
        let (policy, found) = read(json!({"rules": [{"action": "Accept"}, rule]}));
        let expected = format!("spec.rules[1].{field}");
        assert_eq!((policy, found.len()), (None, 1), "{rule}");
        assert_eq!(found[0].0, expected.trim_end_matches('.'), "{rule}");
    }
}
