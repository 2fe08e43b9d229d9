//! Topologies: the nodes that are followed, and the change between a full mesh and reflectors.

use heliograph_agent::intent::{Snapshot, Topology};
use heliograph_agent::store::View;
use serde_json::json;

use super::{Store, in_force, nodes};
use crate::fixture::Fixture;
use crate::user::OURS;

pub async fn topologies_switch_without_a_gap(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let path = format!("{OURS}/bgpconfigurations/default");
    admin.put_node("rr", "192.0.2.7", None, json!({"reflects": "yes"})).await;
    store.until("the reflector comes", |view| nodes(view).contains(&"rr")).await;
    store.seen.lock().unwrap().clear();
    let reflectors = json!({"topology": "Reflectors",
        "reflectors": {"nodeSelector": {"matchExpressions": [{"key": "reflects", "operator": "Exists"}]}}});
    let answer = admin.merge(&path, json!({"spec": reflectors})).await;
    assert!(answer.code < 300, "{answer:?}");
    let view = store.until("only the reflector is followed", |view| nodes(view) == ["a", "rr"]).await;
    assert!(!in_force(&view).unwrap().all_nodes && view.in_sync);
    // A node that becomes a reflector.
    admin.put_node("d", "192.0.2.8", None, json!({"reflects": "too"})).await;
    store.until("a second reflector", |view| nodes(view) == ["a", "d", "rr"]).await;
    admin.delete("/api/v1/nodes/d").await;
    store.until("it goes", |view| nodes(view) == ["a", "rr"]).await;
    // We become a reflector, which follows all nodes.
    admin.label_node("a", json!({"reflects": "yes"})).await;
    let view = store.until("a reflector follows all", |view| nodes(view) == ["a", "b", "c", "rr"]).await;
    assert!(in_force(&view).unwrap().all_nodes);
    admin.label_node("a", json!({"reflects": null})).await;
    store.until("a client does not", |view| nodes(view) == ["a", "rr"]).await;
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    store.until("the mesh is back", |view| nodes(view) == ["a", "b", "c", "rr"]).await;
    // Every snapshot had the nodes that its topology needs.
    let seen = store.seen.lock().unwrap().clone();
    assert!(seen.iter().any(|snapshot| !snapshot.all_nodes), "no snapshot with reflectors of {}", seen.len());
    for snapshot in seen {
        let names: Vec<_> = snapshot.nodes.keys().map(|name| &**name).collect();
        let mesh = matches!(snapshot.configuration.topology, Topology::FullMesh);
        assert!(if mesh { names.len() >= 4 } else { names.contains(&"rr") }, "{names:?}, mesh: {mesh}");
    }
    admin.delete("/api/v1/nodes/rr").await;
    store.until("three are left", |view| nodes(view).len() == 3).await;
}

/// Returns whether a snapshot has a reflector, or is a mesh of at least three nodes.
fn is_complete(snapshot: &Snapshot) -> bool {
    let mesh = matches!(snapshot.configuration.topology, Topology::FullMesh);
    if mesh { snapshot.nodes.len() >= 3 && snapshot.all_nodes } else { !snapshot.lacks_reflectors() }
}

pub async fn reflectors_without_a_node(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let path = format!("{OURS}/bgpconfigurations/default");
    let reflectors = |label: &str| {
        json!({"spec": {"topology": "Reflectors", "reflectors":
            {"nodeSelector": {"matchExpressions": [{"key": label, "operator": "Exists"}], "matchLabels": null}}}})
    };
    let rejected = |view: &View| {
        view.rejections.iter().any(|rejection| rejection.field == "spec.reflectors.nodeSelector")
            && !view.in_sync
    };
    let before = store.view();
    store.seen.lock().unwrap().clear();
    admin.merge(&path, reflectors("reflcts")).await;
    let view = store.until("no node reflects", rejected).await;
    assert_eq!(view.snapshot, before.snapshot, "the mesh stays");
    admin.put_node("late", "192.0.2.9", None, json!({})).await;
    store.until("nodes are followed nevertheless", |view| nodes(view) == ["a", "b", "c", "late"]).await;
    let mut second = Store::start(fixture.kubeconfig(), &fixture.folder().join("second.yaml"));
    let view = second.until("a first start is a mesh", rejected).await;
    assert!(is_complete(in_force(&view).unwrap()) && nodes(&view).len() == 4, "{view:#?}");
    // A node gets the label.
    admin.label_node("c", json!({"reflcts": "yes"})).await;
    for store in [&mut store, &mut second] {
        let view = store.until("it reflects", |view| nodes(view) == ["a", "c"] && view.in_sync).await;
        assert!(!in_force(&view).unwrap().all_nodes);
    }
    admin.label_node("c", json!({"reflcts": null})).await;
    for store in [&mut store, &mut second] {
        let view = store.until("the last reflector has lost its label", rejected).await;
        assert_eq!(nodes(&view), ["a", "c"]);
    }
    // The selector gets the right label, and a node, too.
    admin.merge(&path, reflectors("reflects")).await;
    admin.label_node("b", json!({"reflects": "yes"})).await;
    for store in [&mut store, &mut second] {
        store.until("another reflects", |view| nodes(view) == ["a", "b"] && view.in_sync).await;
    }
    // Our node is the last reflector.
    admin.label_node("a", json!({"reflects": "yes"})).await;
    admin.label_node("b", json!({"reflects": null})).await;
    for store in [&mut store, &mut second] {
        store.until("only we reflect", |view| nodes(view) == ["a", "b", "c", "late"] && view.in_sync).await;
    }
    admin.label_node("a", json!({"reflects": null})).await;
    for store in [&mut store, &mut second] {
        let view = store.until("we remain one", rejected).await;
        let snapshot = in_force(&view).unwrap();
        assert!(snapshot.is_reflector(&snapshot.nodes["a"]) && snapshot.all_nodes && nodes(&view).len() == 4);
    }
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    admin.delete("/api/v1/nodes/late").await;
    store.until("the mesh is back", |view| view.in_sync && view.snapshot == before.snapshot).await;
    for snapshot in store.seen.lock().unwrap().iter().chain(second.seen.lock().unwrap().iter()) {
        assert!(is_complete(snapshot), "{snapshot:#?}");
    }
}
