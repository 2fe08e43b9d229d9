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

/// Accepts the objects of a text, of which some can't be used.
fn accept_with(unusable: Vec<ObjectRef>, text: &str, before: Option<&Accepted>) -> Acceptance {
    let (objects, facts) = nodes::split(objects(text));
    accept(Current { objects, unusable, facts, all_nodes: true }, before, A, &mut None)
}

fn accept_text(text: &str, before: Option<&Accepted>) -> Acceptance {
    accept_with(Vec::new(), text, before)
}

fn first(text: &str) -> Accepted {
    let acceptance = accept_text(text, None);
    assert_eq!(acceptance.rejections, []);
    acceptance.accepted.unwrap()
}

/// Returns what is accepted of `now` while `before` is in force, and the rejected fields.
fn after(before: &str, now: &str) -> (Snapshot, Vec<String>) {
    let acceptance = accept_text(now, Some(&first(before)));
    let rejected = acceptance.rejections.iter().map(|rejection| {
        let object = rejection.object.as_ref().map(|object| format!("{object} "));
        format!("{}{}", object.unwrap_or_default(), rejection.field)
    });
    (acceptance.accepted.unwrap().snapshot, rejected.collect())
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
    assert_eq!(snapshot.peers["tor"].neighbor.asn, 64600, "the version in force");
    assert_eq!(snapshot.nodes.len(), 2, "the node is accepted");
    assert_eq!(rejected, ["BGPPeer tor spec.peerASN"]);
    // Without a version in force it is left out.
    let (snapshot, _) = after(&usual(), &(usual() + &invalid));
    assert!(snapshot.peers.is_empty());
}

/// Sets the day on which an object was created.
fn created(object: String, day: u32) -> String {
    object.replace("metadata: {", &format!("metadata: {{creationTimestamp: '2026-01-{day:02}T00:00:00Z', "))
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.nodes.keys().map(|name| &**name).collect()
}

#[test]
fn a_node_that_conflicts_with_an_earlier_one_is_left_aside_whatever_was_received_first() {
    let cases = [
        (node("0-new", "192.0.2.1", "10.244.9.0/24"), "Node 0-new status.addresses"),
        (node("0-new", "192.0.2.3", "10.244.1.0/25"), "Node 0-new spec.podCIDRs[0]"),
        (node("0-new", "192.0.2.3", "10.244.0.0/20"), "Node 0-new spec.podCIDRs[0]"),
        (node("0-new", "10.244.1.7", "10.244.9.0/24"), "Node 0-new status.addresses"),
        // Each by itself.
        (node("0-new", "10.244.9.7", "10.244.9.0/24"), "Node 0-new spec.podCIDRs[0]"),
        (node("0-new", "192.0.2.3", "'10.244.9.0/24', '10.244.9.0/25'"), "Node 0-new spec.podCIDRs[1]"),
        (node("0-new", "127.0.0.1", "10.244.9.0/24"), "Node 0-new status.addresses[0].address"),
        (node("0-new", "192.0.2.3", "10.245.1.0/24"), "Node 0-new spec.podCIDRs[0]"),
    ];
    let spec = "asNumber: 64512, clusterCIDRs: [10.244.0.0/16]";
    let configuration = configuration(spec);
    let a = created(node(A, "192.0.2.1", "10.244.1.0/24"), 1);
    for (new, expected) in cases {
        let new = created(new, 2);
        let both = configuration.clone() + &a + &new;
        for before in [configuration.clone(), configuration.clone() + &a, configuration.clone() + &new] {
            let before = accept_text(&before, None).accepted;
            let acceptance = accept_text(&both, before.as_ref());
            let rejections = acceptance.rejections;
            let rejected: Vec<_> = rejections
                .iter()
                .map(|one| format!("{} {}", one.object.as_ref().unwrap(), one.field))
                .collect();
            assert_eq!(rejected, [expected], "{new}");
            assert_eq!(names(&acceptance.accepted.unwrap().snapshot), [A]);
        }
    }
}

#[test]
fn of_nodes_created_at_the_same_time_the_smaller_name_is_used() {
    let nodes = ["c", "b", "d"].map(|name| created(node(name, "192.0.2.3", ""), 3));
    let (snapshot, rejected) = after(&usual(), &(usual() + &nodes.concat()));
    assert_eq!(names(&snapshot), [A, "b"]);
    assert_eq!(rejected, ["Node c status.addresses", "Node d status.addresses"]);
    // One that is left aside itself is in nobody's way.
    let chain = created(node("b", "192.0.2.1", "10.244.2.0/24"), 2)
        + &created(node("c", "192.0.2.3", "10.244.2.0/25"), 3);
    let (snapshot, rejected) = after(&usual(), &(usual() + &chain));
    assert_eq!((names(&snapshot), rejected), (vec![A, "c"], vec!["Node b status.addresses".into()]));
}

#[test]
fn of_a_peer_and_a_node_with_the_same_address_the_older_is_used() {
    let peer = |day| created(peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600"), day);
    let node = |day| created(node("b", "192.0.2.9", "10.244.2.0/24"), day);
    for (of_peer, of_node, nodes, peers, expected) in [
        (2, 1, vec![A, "b"], 0, "BGPPeer tor spec.peerAddress"),
        (2, 2, vec![A, "b"], 0, "BGPPeer tor spec.peerAddress"),
        (2, 3, vec![A], 1, "Node b status.addresses"),
    ] {
        let both = usual() + &peer(of_peer) + &node(of_node);
        for before in [usual(), usual() + &peer(of_peer), usual() + &node(of_node)] {
            let (snapshot, rejected) = after(&before, &both);
            assert_eq!(
                (names(&snapshot), snapshot.peers.len()),
                (nodes.clone(), peers),
                "{of_peer} {of_node}"
            );
            assert_eq!(rejected, [expected]);
        }
    }
}

#[test]
fn a_new_peer_that_conflicts_with_an_accepted_one_is_rejected() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    // Sorted before the accepted one, so that by order alone that would be rejected.
    let new = peer("0-new", "peerAddress: 192.0.2.9, peerASN: 64600");
    let (snapshot, rejected) = after(&before, &(before.clone() + &new));
    assert_eq!(rejected, ["BGPPeer 0-new spec.peerAddress"]);
    assert_eq!(snapshot.peers.keys().collect::<Vec<_>>(), ["tor"]);
}

#[test]
fn a_change_that_makes_another_object_invalid_is_rejected() {
    let spec = "peerAddress: 192.0.2.9, peerASN: 64600, localASN: 64999";
    let before = usual() + &peer("tor", spec);
    let (snapshot, rejected) = after(&before, &before.replace("asNumber: 64512", "asNumber: 64600"));
    assert_eq!((snapshot.configuration.asn, snapshot.peers.len()), (64512, 1));
    assert_eq!(rejected, ["BGPPeer tor spec.localASN"]);
}

#[test]
fn our_labels_are_used_even_if_two_peers_are_in_conflict_by_them() {
    let selecting = |name: &str, label: &str| {
        let spec =
            format!("peerAddress: 192.0.2.9, peerASN: 64600, nodeSelector: {{matchLabels: {{{label}}}}}");
        peer(name, &spec)
    };
    let before = usual() + &selecting("one", "rack: x") + &selecting("two", "row: y");
    let (snapshot, rejected) = after(&before, &labelled(before.clone(), "rack: x, row: y"));
    assert_eq!(snapshot.nodes[A].labels.len(), 2);
    assert_eq!(snapshot.peers.keys().collect::<Vec<_>>(), ["one"]);
    assert_eq!(rejected, ["BGPPeer two spec.peerAddress"]);
}

#[test]
fn only_what_changed_is_not_shared_with_the_intent_before() {
    let before = usual()
        + &node("b", "192.0.2.2", "10.244.2.0/24")
        + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let first = first(&before);
    let now = accept_text(&before.replace("192.0.2.2", "192.0.2.3"), Some(&first)).accepted.unwrap();
    let (former, now) = (&first.snapshot, &now.snapshot);
    assert!(Arc::ptr_eq(&former.configuration, &now.configuration) && Arc::ptr_eq(&former.peers, &now.peers));
    let same = |name: &str| Arc::ptr_eq(&former.nodes[name], &now.nodes[name]);
    assert_eq!([same(A), same("b")], [true, false]);
    assert!(accept_text(&before, Some(&first)).accepted.unwrap().snapshot.is_same(former));
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
    let old = first(&before).snapshot.peers["tor"].clone();
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
    assert_eq!((snapshot.peers["tor"].neighbor.authentication.clone(), rejected.len()), (None, 0));
}

#[test]
fn without_a_configuration_our_kinds_stay_and_nodes_are_accepted() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let now = node(A, "192.0.2.1", "10.244.1.0/24") + &node("b", "192.0.2.2", "10.244.2.0/24");
    let (snapshot, rejected) = after(&before, &now);
    assert_eq!((snapshot.nodes.len(), snapshot.peers.len(), snapshot.configuration.asn), (2, 1, 64512));
    assert_eq!(rejected, [""]);
    let acceptance = accept_text(&now, None);
    assert!(acceptance.accepted.is_none());
    assert!(acceptance.rejections[0].problem.contains("no BGPConfiguration"));
}

fn labelled(node: String, labels: &str) -> String {
    node.replace(
        "kind: Node\nmetadata: {name",
        &format!("kind: Node\nmetadata: {{labels: {{{labels}}}, name"),
    )
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
    let acceptance = accept_text(&unlabeled, Some(&first(&before)));
    let accepted = acceptance.accepted.unwrap();
    let snapshot = accepted.snapshot.clone();
    assert_eq!(reflectors(&snapshot), Some(vec!["r"]));
    assert_eq!(snapshot.nodes["r"].labels["other"], "y", "its other labels are accepted");
    assert_eq!(snapshot.nodes["r"].pod_cidrs[0].to_string(), "10.244.8.0/24");
    let rejections = acceptance.rejections;
    assert!(rejections[0].problem.contains("the former reflectors stay: r"), "{rejections:?}");
    let again = accept_text(&unlabeled, Some(&accepted));
    assert_eq!(again.accepted.unwrap(), accepted);

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
    let acceptance = accept_text(&reflected("reflcts", "reflects: x"), None);
    assert_eq!(acceptance.rejections[0].field, "spec.reflectors.nodeSelector");
    let accepted = acceptance.accepted.unwrap();
    let snapshot = &accepted.snapshot;
    assert_eq!((reflectors(snapshot), snapshot.configuration.asn, snapshot.nodes.len()), (None, 64512, 2));
    let acceptance = accept_text(&reflected("reflects", "reflects: x"), Some(&accepted));
    let rejections = acceptance.rejections;
    assert_eq!((reflectors(&acceptance.accepted.unwrap().snapshot), rejections), (Some(vec!["r"]), vec![]));
}

#[test]
fn unusable_objects_stay_as_they_were() {
    let before = usual() + &peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600");
    let in_force = first(&before);
    let unusable = vec![ObjectRef::new(ObjectKind::BGPPeer, "tor")];
    let acceptance = accept_with(unusable, &usual(), Some(&in_force));
    assert_eq!(acceptance.accepted.unwrap().snapshot.peers.len(), 1);
}

#[test]
fn a_secret_that_cannot_be_read_is_not_reported_as_missing() {
    let needed = peer("tor", "peerAddress: 192.0.2.9, peerASN: 64600, passwordSecretRef: {name: s}");
    for (unusable, words) in
        [(vec![], "there is no Secret s"), (vec![ObjectRef::new(ObjectKind::Secret, "s")], "can't be read")]
    {
        let acceptance = accept_with(unusable, &(usual() + &needed), Some(&first(&usual())));
        let rejection = &acceptance.rejections[0];
        assert!(rejection.problem.contains(words), "{rejection:?}");
        assert!(acceptance.accepted.unwrap().snapshot.peers.is_empty(), "never without its password");
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
