use super::*;
use crate::api::ObjectKind;
use crate::store::decode::{self, UnknownFields};
use crate::store::problem::Problems;
use crate::store::yaml;

/// Returns the objects of YAML documents.
fn objects(text: &str) -> Vec<Object> {
    let documents = yaml::parse(text).unwrap();
    let mut found = Vec::new();
    let read = |value| decode::object(value, UnknownFields::Rejected, &mut Problems::of(0, &mut found));
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
    let acceptance = accept(objects(text), &[], &[], A);
    assert_eq!(acceptance.rejections, []);
    acceptance.accepted.unwrap().1
}

/// Returns what is accepted of `now` while `before` is in force, and the rejected fields.
fn after(before: &str, now: &str) -> (Snapshot, Vec<String>) {
    let acceptance = accept(objects(now), &[], &first(before), A);
    let rejected = acceptance.rejections.iter().map(|rejection| {
        let object = rejection.object.as_ref().map(|object| format!("{object} "));
        format!("{}{}", object.unwrap_or_default(), rejection.field)
    });
    (acceptance.accepted.unwrap().0, rejected.collect())
}

#[test]
fn valid_objects_are_all_accepted() {
    let (snapshot, rejected) = after(&usual(), &(usual() + &node("b", "192.0.2.2", "10.244.2.0/24")));
    assert_eq!((snapshot.nodes.len(), rejected.len()), (2, 0));
}

#[test]
fn a_mistake_in_one_object_does_not_block_the_others() {
    let valid = peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let invalid = peer("tor", "peerAddress: 192.0.2.9, peerASN: 0");
    let (snapshot, rejected) =
        after(&(usual() + &valid), &(usual() + &invalid + &node("b", "192.0.2.2", "10.244.2.0/24")));
    assert_eq!(snapshot.peers["tor"].asn, 64600, "the version in force");
    assert_eq!(snapshot.nodes.len(), 2, "the node is accepted");
    assert_eq!(rejected, ["BGPPeer tor spec.peerASN"]);
    // Without a version in force it is left out.
    let (snapshot, _) = after(&usual(), &(usual() + &invalid));
    assert!(snapshot.peers.is_empty());
}

#[test]
fn a_new_object_that_conflicts_with_an_accepted_one_is_rejected() {
    let cases = [
        // Sorted before the accepted ones, so that by order alone these would be rejected.
        (node("0-new", "192.0.2.1", "10.244.9.0/24"), "Node 0-new status.addresses"),
        (node("0-new", "192.0.2.3", "10.244.1.0/25"), "Node 0-new spec.podCIDRs[0]"),
        (node("0-new", "10.244.1.7", "10.244.9.0/24"), "Node 0-new status.addresses"),
        (node("0-new", "192.0.2.3", "10.245.1.0/24"), "Node 0-new spec.podCIDRs[0]"),
        (peer("0-new", "peerAddress: 192.0.2.1, peerASN: 64600"), "BGPPeer 0-new spec.peerAddress"),
        (peer("0-new", "peerAddress: 192.0.2.9, peerASN: 64600"), "BGPPeer 0-new spec.peerAddress"),
    ];
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    for (new, expected) in cases {
        let (snapshot, rejected) = after(&before, &(before.clone() + &new));
        assert_eq!(rejected, [expected]);
        assert_eq!(
            (snapshot.nodes.keys().map(|name| &**name).collect::<Vec<_>>(), snapshot.peers.len()),
            (vec!["a"], 1)
        );
    }
}

#[test]
fn a_configuration_that_would_exclude_nodes_is_rejected() {
    let moved = usual().replace("10.244.0.0/16", "10.99.0.0/16");
    let (snapshot, rejected) = after(&usual(), &moved);
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.configuration.cluster_cidrs[0].to_string(), "10.244.0.0/16");
    assert_eq!(rejected, ["Node a spec.podCIDRs[0]"]);
}

#[test]
fn objects_that_a_peer_refers_to_stay_in_force() {
    let password = "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}, importFilter: f";
    let needed = peer("tor", password);
    let f = filter("f", "otherwise: Accept");
    let s = secret("s", "password: sesame");
    let before = usual() + &needed + &f + &s;
    let old = first(&before);
    let old = accept(old.clone(), &[], &old, A).accepted.unwrap().0.peers["tor"].clone();
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
        let (snapshot, rejected) = after(&before, &now);
        assert_eq!(rejected, expected);
        if !now.contains("nextHopSelf") {
            assert_eq!(snapshot.peers["tor"], old);
        }
    }
    let rotated = usual() + &needed + &f + &secret("s", "password: other");
    let (snapshot, rejected) = after(&before, &rotated);
    assert!(rejected.is_empty() && snapshot.peers["tor"] != old, "a new password is accepted");
    // Never without its password.
    let (snapshot, _) = after(&usual(), &(usual() + &needed + &f));
    assert!(snapshot.peers.is_empty());
}

#[test]
fn secrets_of_peers_of_other_nodes_are_not_needed() {
    let elsewhere = "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}, \
                     nodeSelector: {matchLabels: {rack: '9'}}";
    let (snapshot, rejected) = after(&usual(), &(usual() + &peer("tor", elsewhere)));
    assert_eq!((snapshot.peers["tor"].authentication.clone(), rejected.len()), (None, 0));
}

#[test]
fn without_a_configuration_our_kinds_stay_and_nodes_are_accepted() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let now = node(A, "192.0.2.1", "10.244.1.0/24") + &node("b", "192.0.2.2", "10.244.2.0/24");
    let (snapshot, rejected) = after(&before, &now);
    assert_eq!((snapshot.nodes.len(), snapshot.peers.len(), snapshot.configuration.asn), (2, 1, 64512));
    assert_eq!(rejected, [""]);
    let acceptance = accept(objects(&now), &[], &[], A);
    assert!(acceptance.accepted.is_none());
    assert!(acceptance.rejections[0].problem.contains("no BGPConfiguration"));
}

fn labelled(node: String, labels: &str) -> String {
    node.replace("metadata: {name", &format!("metadata: {{labels: {{{labels}}}, name"))
}

/// Returns a cluster whose reflectors have a label; `r` has the labels `of_r`.
fn reflected(label: &str, of_r: &str) -> String {
    let spec = format!(
        "asNumber: 64512, topology: Reflectors, \
         reflectors: {{nodeSelector: {{matchExpressions: [{{key: {label}, operator: Exists}}]}}}}"
    );
    let r = labelled(node("r", "192.0.2.9", "10.244.9.0/24"), of_r);
    configuration(&spec) + &node(A, "192.0.2.1", "10.244.1.0/24") + &r
}

/// Returns the names of the reflectors. `None`: it is a full mesh.
fn reflectors(snapshot: &Snapshot) -> Option<Vec<&str>> {
    let names = || snapshot.nodes.values().filter(|node| snapshot.is_reflector(node));
    matches!(snapshot.configuration.topology, intent::Topology::Reflectors(_))
        .then(|| names().map(|node| &*node.name).collect())
}

const SELECTOR: &str = "BGPConfiguration default spec.reflectors.nodeSelector";

#[test]
fn a_selector_without_a_reflector_leaves_the_topology_as_it_was() {
    let mesh = usual() + &labelled(node("r", "192.0.2.9", "10.244.9.0/24"), "reflects: yes");
    let (snapshot, rejected) = after(&mesh, &reflected("reflects", "reflects: x"));
    assert_eq!((reflectors(&snapshot), rejected.len()), (Some(vec!["r"]), 0));
    let (snapshot, rejected) = after(&mesh, &reflected("reflcts", "reflects: x"));
    assert_eq!((reflectors(&snapshot), rejected), (None, vec![SELECTOR.into()]));
    let (snapshot, rejected) =
        after(&reflected("reflects", "reflects: x"), &reflected("reflcts", "reflects: x"));
    assert_eq!((reflectors(&snapshot), rejected), (Some(vec!["r"]), vec![SELECTOR.into()]));
}

#[test]
fn the_last_reflector_stays_one_without_its_label_and_without_its_node() {
    let before = reflected("reflects", "reflects: x, other: x");
    let unlabeled = reflected("reflects", "other: y").replace("10.244.9.0/24", "10.244.8.0/24");
    let acceptance = accept(objects(&unlabeled), &[], &first(&before), A);
    let (snapshot, accepted) = acceptance.accepted.unwrap();
    assert_eq!(reflectors(&snapshot), Some(vec!["r"]));
    assert_eq!(snapshot.nodes["r"].labels["other"], "y", "its other labels are accepted");
    assert_eq!(snapshot.nodes["r"].pod_cidrs[0].to_string(), "10.244.8.0/24");
    let rejections = acceptance.rejections;
    assert!(rejections[0].problem.contains("the former reflectors stay: r"), "{rejections:?}");
    let again = accept(objects(&unlabeled), &[], &accepted, A);
    assert_eq!(again.accepted.unwrap(), (snapshot, accepted));

    let gone: String = before.split_inclusive("---\n").filter(|text| !text.contains("name: r}")).collect();
    let (snapshot, rejected) = after(&before, gone.trim_end_matches("---\n"));
    assert_eq!((reflectors(&snapshot), rejected), (Some(vec!["r"]), vec![SELECTOR.into()]));

    let other = before.replace("reflects: x", "none: x")
        + &labelled(node("s", "192.0.2.8", "10.244.8.0/24"), "reflects: x");
    let (snapshot, rejected) = after(&before, &other);
    assert_eq!((reflectors(&snapshot), rejected.len()), (Some(vec!["s"]), 0), "another one replaces it");
}

#[test]
fn at_a_first_start_without_a_reflector_nodes_peer_with_each_other() {
    let acceptance = accept(objects(&reflected("reflcts", "reflects: x")), &[], &[], A);
    assert_eq!(acceptance.rejections[0].field, "spec.reflectors.nodeSelector");
    let (snapshot, accepted) = acceptance.accepted.unwrap();
    assert_eq!((reflectors(&snapshot), snapshot.configuration.asn, snapshot.nodes.len()), (None, 64512, 2));
    let acceptance = accept(objects(&reflected("reflects", "reflects: x")), &[], &accepted, A);
    let rejections = acceptance.rejections;
    assert_eq!((reflectors(&acceptance.accepted.unwrap().0), rejections), (Some(vec!["r"]), vec![]));
}

#[test]
fn unusable_objects_stay_as_they_were() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let in_force = first(&before);
    let unusable = [ObjectRef::new(ObjectKind::BGPPeer, "tor")];
    let acceptance = accept(objects(&usual()), &unusable, &in_force, A);
    assert_eq!(acceptance.accepted.unwrap().0.peers.len(), 1);
}

#[test]
fn a_secret_that_cannot_be_read_is_not_reported_as_missing() {
    let needed = peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}");
    for (unusable, words) in
        [(vec![], "there is no Secret s"), (vec![ObjectRef::new(ObjectKind::Secret, "s")], "can't be read")]
    {
        let acceptance = accept(objects(&(usual() + &needed)), &unusable, &first(&usual()), A);
        let rejection = &acceptance.rejections[0];
        assert!(rejection.problem.contains(words), "{rejection:?}");
        assert!(acceptance.accepted.unwrap().0.peers.is_empty(), "never without its password");
    }
}

#[test]
fn a_deleted_object_is_removed() {
    let before = usual()
        + &node("b", "192.0.2.2", "10.244.2.0/24")
        + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let (snapshot, rejected) = after(&before, &usual());
    assert_eq!((snapshot.nodes.len(), snapshot.peers.len(), rejected.len()), (1, 0, 0));
}
