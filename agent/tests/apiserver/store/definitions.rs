//! Definitions: their validation, and their absence.

use heliograph_agent::store::{View, convert};
use serde_json::{Value, json};

use super::{Store, connected, error, generations_of_tor, in_force, nodes, object_of, password};
use crate::fixture::Fixture;
use crate::objects::{configuration, ours};
use crate::rights::grant_store;
use crate::user::{CRDS, OURS, until};

pub async fn definitions_come_late(fixture: &mut Fixture) {
    let admin = &fixture.admin;
    fixture.undefine().await;
    let mut store: Store = fixture.start_store();
    store.until("the token has no rights yet", |view| error(view).contains("403")).await;
    grant_store(admin).await;
    store.until("the kinds are missing", |view| error(view).contains("heliograph crds")).await;
    admin.define().await;
    // A BGPConfiguration is optional.
    let view = store.until("the defaults are in force", |view| connected(view) && view.in_sync).await;
    assert_eq!(in_force(&view).unwrap().configuration.as_ref(), &convert::default_configuration());
    assert!(view.origin.contains("defaults") && view.rejections.is_empty(), "{view:?}");
}

pub async fn invalid_objects_are_rejected(fixture: &mut Fixture) {
    let admin = &fixture.admin;
    admin.define().await;
    let tor = |more: Value| {
        let mut spec = json!({"peerAddress": "192.0.2.1", "peerASN": 64600});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("bgppeers", ours("BGPPeer", "tor", spec))
    };
    let bgp = |more: Value| {
        let mut spec = json!({"asNumber": 64512});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("bgpconfigurations", configuration(spec))
    };
    let selecting =
        |selector: Value| bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector": selector}}));
    let rule = |rule: Value| ("bgpfilters", ours("BGPFilter", "f", json!({"rules": [rule]})));
    let cases = [
        (bgp(json!({"asNumber": 0})), "greater than or equal to 1"),
        (bgp(json!({"asNumber": 4_294_967_296u64})), "less than or equal"),
        (("bgpconfigurations", ours("BGPConfiguration", "other", json!({"asNumber": 1}))), "named default"),
        (bgp(json!({"topology": "Star"})), "Unsupported value"),
        (bgp(json!({"topology": "Reflectors"})), "reflectors is required"),
        (bgp(json!({"reflectors": {"nodeSelector": {"matchLabels": {"a": "b"}}}})), "reflectors is required"),
        (
            bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector": {}}})),
            "every node a reflector",
        ),
        (
            bgp(json!({"topology": "Reflectors", "reflectors": {"nodeSelector":
                {"matchExpressions": [{"key": "a", "operator": "Is"}]}}})),
            "Unsupported value",
        ),
        (selecting(json!({"matchLabels": {"heliograph.io/reflector": "yes please"}})), "should match"),
        (selecting(json!({"matchLabels": {"a b": "yes"}})), "valid label keys"),
        (selecting(json!({"matchLabels": {"A.b/c": "yes"}})), "valid label keys"),
        (selecting(json!({"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]})), "should match"),
        (selecting(json!({"matchExpressions": [{"key": "a", "operator": "In"}]})), "require values"),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]})),
            "require values",
        ),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
            "have none",
        ),
        (
            selecting(json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]})),
            "should match",
        ),
        (bgp(json!({"clusterCIDRs": ["10.244.0.1/16"]})), "bits beyond its length"),
        (bgp(json!({"clusterCIDRs": ["10.244.0.0"]})), "CIDR notation"),
        (bgp(json!({"timers": {"holdSeconds": 2}})), "at least 3"),
        (bgp(json!({"timers": {"holdSeconds": 9, "keepaliveSeconds": 9}})), "less than holdSeconds"),
        (bgp(json!({"timers": {"holdSeconds": 90, "sendHoldSeconds": 90}})), "more than holdSeconds"),
        (bgp(json!({"gracefulRestart": {"restartSeconds": 4096}})), "4095"),
        (bgp(json!({"listenPort": 65536})), "65535"),
        (bgp(json!({"colour": "red"})), "not declared in schema"),
        (tor(json!({"peerAddress": "192.0.2.300"})), "one machine"),
        (tor(json!({"peerAddress": "192.0.2.0/24"})), "one machine"),
        (tor(json!({"peerAddress": "224.0.0.1"})), "one machine"),
        (tor(json!({"peerAddress": "fe80::1"})), "link-local"),
        (tor(json!({"sourceAddress": "127.0.0.1"})), "InternalIP or an IP"),
        (tor(json!({"peerASN": 0})), "greater than or equal to 1"),
        (tor(json!({"localASN": 64600})), "own AS number"),
        (tor(json!({"sourceAddress": "eth0"})), "InternalIP or an IP"),
        (tor(json!({"sourceAddress": "2001:db8::1"})), "family"),
        (tor(json!({"families": []})), "at least 1"),
        (tor(json!({"families": ["IPX"]})), "Unsupported value"),
        (tor(json!({"multihop": 2, "ttlSecurity": 2})), "exclude each other"),
        (tor(json!({"ttlSecurity": 255})), "254"),
        (tor(json!({"strictRole": true})), "requires role"),
        (tor(json!({"prefixLimit": {"max": 0}})), "greater than or equal to 1"),
        (tor(json!({"passwordSecretRef": {"name": ""}})), "at least 1"),
        (tor(json!({"passwordSecretRef": {"name": "a,b=c"}})), "should match"),
        (tor(json!({"passwordSecretRef": {"name": "a", "key": "b c"}})), "should match"),
        (tor(json!({"import": [], "importFilter": "f"})), "not both"),
        (tor(json!({"export": [], "exportFilter": "f"})), "not both"),
        (tor(json!({"import": [{"cidr": "10.0.0.0/16", "maxLength": 8}]})), "maxLength must lie"),
        (tor(json!({"import": [{"cidr": "10.0.0.0/16", "maxLength": 33}]})), "maxLength must lie"),
        (rule(json!({"action": "Drop"})), "Unsupported value"),
        (rule(json!({"action": "Reject", "set": {"med": 1}})), "leave set out"),
        (rule(json!({"action": "Accept", "set": {"med": 1, "removeMED": true}})), "not both"),
        (rule(json!({"action": "Accept", "set": {"prepend": 33}})), "32"),
        (rule(json!({"action": "Accept", "match": {"prefixes": []}})), "at least 1"),
        (rule(json!({"action": "Accept", "match": {"nextHops": ["x"]}})), "CIDR notation"),
        (
            rule(json!({"action": "Accept", "match": {"prefixes":
                [{"cidr": "10.0.0.0/16", "minLength": 24, "maxLength": 20}]}})),
            "minLength must lie",
        ),
    ];
    let communities = [
        "64512:99999",
        "65536:1",
        "no-exprot",
        "64512",
        "64512:",
        "1:2:3:4",
        "1:2:4294967296",
        "rt:65536:65536",
        "rt:1:4294967296",
        "soo:192.0.2.1:65536",
        "soo:192.0.2.300:1",
        "ro:1:1",
        "0x1234",
        "0x000000000000000g",
        "-1:1",
        "a:b",
    ];
    let of_communities = communities.iter().flat_map(|community| {
        let listed = json!([community]);
        let matched = json!({"communities": listed});
        [
            rule(json!({"action": "Accept", "match": matched})),
            rule(json!({"action": "Accept", "unless": matched})),
            rule(json!({"action": "Accept", "set": {"addCommunities": listed}})),
            rule(json!({"action": "Accept", "set": {"removeCommunities": listed}})),
        ]
    });
    let mut accepted = Vec::new();
    for ((plural, object), message) in
        cases.into_iter().chain(of_communities.map(|case| (case, "must be communities")))
    {
        let answer = admin.apply(&format!("{OURS}/{plural}"), &object).await;
        if !matches!(answer.code, 400 | 422 | 500) || !answer.body.contains(message) {
            accepted.push(format!("{message:?} for {object}: {answer:?}"));
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

pub async fn invalid_objects_of_a_lax_definition_are_left_out(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let before = store.view();
    let crd = format!("{CRDS}/bgppeers.heliograph.io");
    let definition = admin.get(&crd).await.unwrap();
    let mut lax = definition.clone();
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let path = format!("{OURS}/bgppeers/tor");
    let (_, good) = generations_of_tor(&before);
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema", "value": lax["spec"]["versions"][0]["schema"]}]);
    let answer = admin.ask("PATCH", &crd, "application/json-patch+json", Some(&patch)).await;
    assert!(answer.code < 300, "{answer:?}");
    for (patch, field) in [
        (json!({"spec": {"peerASN": "a lot"}}), "spec.peerASN"),
        (json!({"spec": {"peerASN": 64600, "peerAddress": "nowhere"}}), "spec.peerAddress"),
    ] {
        until("the lax definition is in force", async || admin.merge(&path, patch.clone()).await.code < 300)
            .await;
        let view = store
            .until(&format!("an invalid {field} is rejected"), |view| {
                view.rejections
                    .iter()
                    .any(|rejection| rejection.field == field && object_of(rejection) == "BGPPeer tor")
            })
            .await;
        assert_eq!(view.snapshot, before.snapshot);
        let (newest, in_force) = generations_of_tor(&view);
        assert!(in_force == good && Some(newest) > good, "{newest}, in force: {in_force:?}, good: {good:?}");
    }
    admin.put_node("newer", "192.0.2.11", Some("10.244.11.0/24"), json!({})).await;
    store.until("nodes are followed nevertheless", |view| nodes(view).contains(&"newer")).await;
    admin.merge(&path, json!({"spec": {"peerAddress": "192.0.2.254"}})).await;
    store.until("it is valid again", |view| view.in_sync).await;
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema",
        "value": definition["spec"]["versions"][0]["schema"]}]);
    admin.ask("PATCH", &crd, "application/json-patch+json", Some(&patch)).await;
}

pub async fn definitions_are_deleted(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let before = store.view();
    until("the last good intent is on disk", async || fixture.last_good().exists()).await;
    fixture.undefine().await;
    let of_tor = |view: &View| view.rejections.iter().any(|rejection| object_of(rejection) == "BGPPeer tor");
    // The objects may end before their definitions, or after.
    let view = store.until("the kinds are missing", |view| error(view).contains("heliograph crds")).await;
    assert_eq!(view.snapshot, before.snapshot, "the last good intent stays");
    assert!(!connected(&view));
    let mut second = fixture.start_store();
    second.until("a start uses it, too", |view| view.snapshot == before.snapshot).await;

    admin.define().await;
    admin.put_ours("bgpconfigurations", &configuration(json!({"asNumber": 64999}))).await;
    let back =
        |view: &View| in_force(view).unwrap().configuration.asn == 64999 && connected(view) && of_tor(view);
    for store in [&mut store, &mut second] {
        let view = store.until("they are back, and the BGPPeer was not deleted", back).await;
        assert_eq!(password(&view), password(&before));
    }
    let tor = ours("BGPPeer", "tor", json!({"peerAddress": "192.0.2.254", "peerASN": 64600}));
    admin.put_ours("bgppeers", &tor).await;
    let filter = json!({"otherwise": "Reject", "rules": [{"name": "all", "action": "Accept"}]});
    admin.put_ours("bgpfilters", &ours("BGPFilter", "from-tor", filter)).await;
    for store in [&mut store, &mut second] {
        store
            .until("they are in force", |view| view.in_sync && connected(view) && password(view).is_none())
            .await;
    }
    admin.delete(&format!("{OURS}/bgppeers/tor")).await;
    for store in [&mut store, &mut second] {
        store
            .until("the BGPPeer is deleted", |view| in_force(view).unwrap().peers.is_empty() && view.in_sync)
            .await;
    }
}
