//! The connection to the API server: lost, forbidden and restored.

use heliograph_agent::store::View;
use serde_json::{Value, json};

use super::{connected, error, md5, nodes, password};
use crate::fixture::Fixture;
use crate::user::{OURS, until};

/// Without the right to list nodes, the next list fails.
pub async fn forbidden_lists_are_not_in_sync(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let before = store.view();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/agent";
    let nodes = |verbs: Value| json!([{"op": "replace", "path": "/rules/0/verbs", "value": verbs}]);
    let grant = async |verbs: Value| {
        let answer = admin.ask("PATCH", role, "application/json-patch+json", Some(&nodes(verbs))).await;
        assert!(answer.code < 300, "{answer:?}");
    };
    grant(json!(["watch"])).await;
    let path = format!("{OURS}/bgpconfigurations/default");
    let reflectors = json!({"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "none"}, "matchExpressions": null}});
    admin.merge(&path, json!({"spec": {"topology": "Reflectors", "reflectors": reflectors}})).await;
    let view = store.until("listing is forbidden: it is no longer in sync", |view| !view.in_sync).await;
    assert!(view.connection.as_ref().is_some_and(|connection| connection.rejected) && !connected(&view));
    assert!(error(&view).contains("403") && error(&view).contains("nodes with"), "{}", error(&view));
    assert_eq!(view.snapshot, before.snapshot);
    admin.merge(&path, json!({"spec": {"topology": "FullMesh", "reflectors": null}})).await;
    grant(json!(["list", "watch"])).await;
    let view = store.until("it is granted again", |view| view.in_sync && connected(view)).await;
    assert_eq!(view.snapshot, before.snapshot);
}

pub async fn the_server_stops_and_starts(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let last_good = fixture.last_good();
    let before = store.view();
    until("the last good intent is on disk", async || {
        std::fs::read_to_string(&last_good).is_ok_and(|text| text.matches("kind\": \"Node").count() == 3)
    })
    .await;
    fixture.server.down();
    let view = store.until("the server is away", |view| !connected(view)).await;
    assert_eq!((&view.snapshot, view.in_sync), (&before.snapshot, before.in_sync));
    assert!(error(&view).contains("can't be reached"), "{}", error(&view));

    let mut second = fixture.start_store();
    let view = second.until("a start uses the last good intent", |view| view.snapshot.is_some()).await;
    assert_eq!((&view.snapshot, view.in_sync), (&before.snapshot, false));
    assert_eq!(password(&view), md5("secret"));

    fixture.server.up(true).await;
    fixture.admin.put_node("new", "192.0.2.10", Some("10.244.10.0/24"), json!({})).await;
    for (who, store) in [("the first", &mut store), ("the second", &mut second)] {
        let caught_up = |view: &View| nodes(view).contains(&"new") && connected(view) && view.in_sync;
        store.until(&format!("{who} catches up"), caught_up).await;
    }
}

pub async fn a_rejected_token_changes_nothing(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let server = &mut fixture.server;
    let before = store.view();
    server.down();
    server.up(false).await;
    let view = store.until("the token is rejected", |view| error(view).contains("401")).await;
    assert_eq!((&view.snapshot, connected(&view)), (&before.snapshot, false));
    server.down();
    server.up(true).await;
    store.until("it is valid again", connected).await;
}
