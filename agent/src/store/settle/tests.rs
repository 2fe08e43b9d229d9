use super::*;
use crate::store::decode::{self, Unknown};
use crate::store::problem::Problems;
use crate::store::yaml;

/// Objects from short YAML documents.
fn objects(text: &str) -> Vec<Object> {
    let documents = yaml::parse(text).unwrap();
    let mut found = Vec::new();
    let read = |value| decode::object(value, Unknown::Refused, &mut Problems::of(0, &mut found));
    let objects: Option<Vec<_>> = documents.iter().map(|document| &document.value).map(read).collect();
    objects.unwrap_or_else(|| panic!("{found:?} in {text}"))
}

fn configuration(spec: &str) -> String {
    format!(
        "---\napiVersion: heliograph.io/v1alpha1\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    )
}

fn node(name: &str, address: &str, pods: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{pods}]}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )
}

fn peer(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: heliograph.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn filter(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: heliograph.io/v1alpha1\nkind: BGPFilter\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn secret(name: &str, data: &str) -> String {
    format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{data}}}\n")
}

const A: &str = "a";

fn usual() -> String {
    configuration("asNumber: 64512, clusterCIDRs: [10.244.0.0/16]") + &node(A, "192.0.2.1", "10.244.1.0/24")
}

fn first(text: &str) -> Vec<Object> {
    let settled = settle(objects(text), &[], &[], A);
    assert_eq!(settled.refused, []);
    settled.good.unwrap().1
}

/// What of `now` is taken after `before`, and the fields that are refused.
fn after(before: &str, now: &str) -> (Snapshot, Vec<String>) {
    let settled = settle(objects(now), &[], &first(before), A);
    let refused = settled.refused.iter().map(|refused| {
        let object = refused.object.as_ref().map(|key| format!("{} {} ", key.kind, key.name));
        format!("{}{}", object.unwrap_or_default(), refused.problem.field)
    });
    (settled.good.unwrap().0, refused.collect())
}

#[test]
fn what_is_good_is_taken_whole() {
    let (snapshot, refused) = after(&usual(), &(usual() + &node("b", "192.0.2.2", "10.244.2.0/24")));
    assert_eq!((snapshot.nodes.len(), refused.len()), (2, 0));
}

#[test]
fn a_mistake_in_one_object_keeps_none_of_the_others_from_being_followed() {
    let good = peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let bad = peer("tor", "peerAddress: 192.0.2.9, peerASN: 0");
    let (snapshot, refused) =
        after(&(usual() + &good), &(usual() + &bad + &node("b", "192.0.2.2", "10.244.2.0/24")));
    assert_eq!(snapshot.peers["tor"].asn, 64600, "as it was last good");
    assert_eq!(snapshot.nodes.len(), 2, "the node is followed");
    assert_eq!(refused, ["BGPPeer tor spec.peerASN"]);
    // Without a good one before, it is left out.
    let (snapshot, _) = after(&usual(), &(usual() + &bad));
    assert!(snapshot.peers.is_empty());
}

#[test]
fn a_newcomer_that_clashes_waits() {
    let cases = [
        // Sorted before the incumbents, so that order alone would blame these.
        (node("0-new", "192.0.2.1", "10.244.9.0/24"), "Node 0-new status.addresses"),
        (node("0-new", "192.0.2.3", "10.244.1.0/25"), "Node 0-new spec.podCIDRs[0]"),
        (node("0-new", "10.244.1.7", "10.244.9.0/24"), "Node 0-new status.addresses"),
        (node("0-new", "192.0.2.3", "10.245.1.0/24"), "Node 0-new spec.podCIDRs[0]"),
        (peer("0-new", "peerAddress: 192.0.2.1, peerASN: 64600"), "BGPPeer 0-new spec.peerAddress"),
        (peer("0-new", "peerAddress: 192.0.2.9, peerASN: 64600"), "BGPPeer 0-new spec.peerAddress"),
    ];
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    for (newcomer, expected) in cases {
        let (snapshot, refused) = after(&before, &(before.clone() + &newcomer));
        assert_eq!(refused, [expected]);
        assert_eq!(
            (snapshot.nodes.keys().map(String::as_str).collect::<Vec<_>>(), snapshot.peers.len()),
            (vec!["a"], 1)
        );
    }
}

#[test]
fn a_configuration_that_would_throw_nodes_out_gives_way() {
    let moved = usual().replace("10.244.0.0/16", "10.99.0.0/16");
    let (snapshot, refused) = after(&usual(), &moved);
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.configuration.cluster_cidrs[0].to_string(), "10.244.0.0/16");
    assert_eq!(refused, ["Node a spec.podCIDRs[0]"]);
}

#[test]
fn what_a_peer_needs_stays_with_it() {
    let password = "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}, importFilter: f";
    let needed = peer("tor", password);
    let f = filter("f", "otherwise: Accept");
    let s = secret("s", "password: sesame");
    let before = usual() + &needed + &f + &s;
    let old = first(&before);
    let old = settle(old.clone(), &[], &old, A).good.unwrap().0.peers["tor"].clone();
    let cases = [
        (usual() + &needed + &f, vec!["BGPPeer tor spec.passwordSecretRef"]),
        (usual() + &needed + &f + &secret("s", "other: x"), vec!["BGPPeer tor spec.passwordSecretRef"]),
        (usual() + &needed + &f + &secret("s", "password: ''"), vec!["BGPPeer tor spec.passwordSecretRef"]),
        (usual() + &needed + &s, vec!["BGPPeer tor spec.importFilter"]),
        (
            usual() + &needed + &s + &filter("f", "rules: [{action: Accept, set: {prepend: 99}}]"),
            vec!["BGPFilter f spec.rules[0]"],
        ),
        (
            usual() + &needed + &s + &filter("f", "rules: [{action: Accept, set: {nextHopSelf: true}}]"),
            vec!["BGPPeer tor spec.importFilter"],
        ),
    ];
    for (now, expected) in cases {
        let (snapshot, refused) = after(&before, &now);
        assert_eq!(refused, expected);
        if !now.contains("nextHopSelf") {
            assert_eq!(snapshot.peers["tor"], old);
        }
    }
    let rotated = usual() + &needed + &f + &secret("s", "password: other");
    let (snapshot, refused) = after(&before, &rotated);
    assert!(refused.is_empty() && snapshot.peers["tor"] != old, "a new password is taken");
    // Never without the password that it wants.
    let (snapshot, _) = after(&usual(), &(usual() + &needed + &f));
    assert!(snapshot.peers.is_empty());
}

#[test]
fn secrets_of_peers_of_other_nodes_are_not_asked_for() {
    let elsewhere = "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}, \
                     nodeSelector: {matchLabels: {rack: '9'}}";
    let (snapshot, refused) = after(&usual(), &(usual() + &peer("tor", elsewhere)));
    assert_eq!((snapshot.peers["tor"].authentication.clone(), refused.len()), (None, 0));
}

#[test]
fn without_a_configuration_everything_of_ours_stays_and_nodes_are_followed() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let now = node(A, "192.0.2.1", "10.244.1.0/24") + &node("b", "192.0.2.2", "10.244.2.0/24");
    let (snapshot, refused) = after(&before, &now);
    assert_eq!((snapshot.nodes.len(), snapshot.peers.len(), snapshot.configuration.asn), (2, 1, 64512));
    assert_eq!(refused, [""]);
    let settled = settle(objects(&now), &[], &[], A);
    assert!(settled.good.is_none() && settled.refused[0].problem.problem.contains("no BGPConfiguration"));
}

fn labelled(node: String, labels: &str) -> String {
    node.replace("metadata: {name", &format!("metadata: {{labels: {{{labels}}}, name"))
}

/// A mesh, and the same cluster with reflectors that have a label, of which `r` has the label `of_r`.
fn reflected(label: &str, of_r: &str) -> String {
    let spec = format!(
        "asNumber: 64512, topology: Reflectors, \
         reflectors: {{nodeSelector: {{matchExpressions: [{{key: {label}, operator: Exists}}]}}}}"
    );
    let r = labelled(node("r", "192.0.2.9", "10.244.9.0/24"), of_r);
    configuration(&spec) + &node(A, "192.0.2.1", "10.244.1.0/24") + &r
}

/// The names of the reflectors; `None`: it is a mesh.
fn reflectors(snapshot: &Snapshot) -> Option<Vec<&str>> {
    let names = || snapshot.nodes.values().filter(|node| snapshot.is_reflector(node));
    matches!(snapshot.configuration.topology, intent::Topology::Reflectors(_))
        .then(|| names().map(|node| node.name.as_str()).collect())
}

const SELECTOR: &str = "BGPConfiguration default spec.reflectors.nodeSelector";

#[test]
fn reflectors_that_no_node_is_leave_the_topology_as_it_was() {
    let mesh = usual() + &labelled(node("r", "192.0.2.9", "10.244.9.0/24"), "reflects: yes");
    let (snapshot, refused) = after(&mesh, &reflected("reflects", "reflects: x"));
    assert_eq!((reflectors(&snapshot), refused.len()), (Some(vec!["r"]), 0));
    let (snapshot, refused) = after(&mesh, &reflected("reflcts", "reflects: x"));
    assert_eq!((reflectors(&snapshot), refused), (None, vec![SELECTOR.into()]));
    let (snapshot, refused) =
        after(&reflected("reflects", "reflects: x"), &reflected("reflcts", "reflects: x"));
    assert_eq!((reflectors(&snapshot), refused), (Some(vec!["r"]), vec![SELECTOR.into()]));
}

#[test]
fn the_last_reflector_goes_on_without_its_label_and_without_its_node() {
    let before = reflected("reflects", "reflects: x, other: x");
    let unlabelled = reflected("reflects", "other: y").replace("10.244.9.0/24", "10.244.8.0/24");
    let settled = settle(objects(&unlabelled), &[], &first(&before), A);
    let (snapshot, good) = settled.good.unwrap();
    assert_eq!(reflectors(&snapshot), Some(vec!["r"]));
    assert_eq!(snapshot.nodes["r"].labels["other"], "y", "what else is said of it is followed");
    assert_eq!(snapshot.nodes["r"].pod_cidrs[0].to_string(), "10.244.8.0/24");
    assert!(settled.refused[0].problem.problem.contains("go on to reflect: r"), "{:?}", settled.refused);
    // And so on.
    let again = settle(objects(&unlabelled), &[], &good, A);
    assert_eq!(again.good.unwrap(), (snapshot, good));

    let gone: String = before.split_inclusive("---\n").filter(|text| !text.contains("name: r}")).collect();
    let (snapshot, refused) = after(&before, gone.trim_end_matches("---\n"));
    assert_eq!((reflectors(&snapshot), refused), (Some(vec!["r"]), vec![SELECTOR.into()]));

    let other = before.replace("reflects: x", "none: x")
        + &labelled(node("s", "192.0.2.8", "10.244.8.0/24"), "reflects: x");
    let (snapshot, refused) = after(&before, &other);
    assert_eq!((reflectors(&snapshot), refused.len()), (Some(vec!["s"]), 0), "another takes its place");
}

#[test]
fn at_a_first_start_without_a_reflector_nodes_peer_with_each_other() {
    let settled = settle(objects(&reflected("reflcts", "reflects: x")), &[], &[], A);
    assert_eq!(settled.refused[0].problem.field, "spec.reflectors.nodeSelector");
    let (snapshot, good) = settled.good.unwrap();
    assert_eq!((reflectors(&snapshot), snapshot.configuration.asn, snapshot.nodes.len()), (None, 64512, 2));
    let settled = settle(objects(&reflected("reflects", "reflects: x")), &[], &good, A);
    assert_eq!((reflectors(&settled.good.unwrap().0), settled.refused), (Some(vec!["r"]), vec![]));
}

#[test]
fn what_cannot_be_read_stays_as_it_was() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let good = first(&before);
    let settled = settle(objects(&usual()), &[ObjectRef::new("BGPPeer", "tor")], &good, A);
    assert_eq!(settled.good.unwrap().0.peers.len(), 1);
}

#[test]
fn a_secret_that_cannot_be_read_is_not_said_to_be_missing() {
    let needed = peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}");
    for (unread, words) in
        [(vec![], "there is no Secret s"), (vec![ObjectRef::new("Secret", "s")], "can't be read")]
    {
        let settled = settle(objects(&(usual() + &needed)), &unread, &first(&usual()), A);
        let problem = &settled.refused[0].problem;
        assert!(problem.problem.contains(words), "{problem:?}");
        assert!(settled.good.unwrap().0.peers.is_empty(), "never without its password");
    }
}

#[test]
fn a_deleted_object_is_gone() {
    let before = usual()
        + &node("b", "192.0.2.2", "10.244.2.0/24")
        + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let (snapshot, refused) = after(&before, &usual());
    assert_eq!((snapshot.nodes.len(), snapshot.peers.len(), refused.len()), (1, 0, 0));
}
