//! Objects: those of one node's intent, and their changes.

use heliograph_agent::store::{View, files};
use heliograph_bgp::Ttl;
use serde_json::{Value, json};

use super::{
    connected, error, generations_of_tor, in_force, intent_objects, md5, nodes, object_of, password,
};
use crate::fixture::Fixture;
use crate::objects::{SECRETS, secret};
use crate::user::OURS;

pub async fn the_intent_is_that_of_a_folder(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let folder = fixture.folder().join("intent");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, object: &Value| std::fs::write(folder.join(name), object.to_string()).unwrap();
    for (plural, object) in &intent_objects() {
        write(&format!("{plural}.yaml"), object);
    }
    write("secret.yaml", &secret("secret"));
    for name in ["a", "b", "c"] {
        // The output of `kubectl get -o json`.
        write(&format!("{name}.yaml"), &admin.get(&format!("/api/v1/nodes/{name}")).await.unwrap());
    }
    let expected = files::load(&folder).unwrap_or_else(|rejections| panic!("{rejections:#?}"));
    assert_eq!(expected.peers["tor"].neighbor.ttl, Ttl::Security(1));
    let view = store
        .until("the intent is that of the folder", |view| {
            in_force(view) == Some(&expected) && connected(view)
        })
        .await;
    assert!(view.in_sync && view.rejections.is_empty(), "{view:#?}");
    let own = admin.get("/api/v1/nodes/a").await.unwrap();
    let uid = |view: &View| view.connection.as_ref().and_then(|connection| connection.node_uid.clone());
    store.until("the UID of our Node", |view| uid(view).as_deref() == own["metadata"]["uid"].as_str()).await;
}

pub async fn nodes_are_followed(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    admin.put_node("late", "192.0.2.9", None, json!({})).await;
    store.until("a node comes", |view| nodes(view) == ["a", "b", "c", "late"]).await;
    let of_late = |view: &View| in_force(view).unwrap().nodes["late"].pod_cidrs.len();
    assert_eq!(of_late(&store.view()), 0);
    let pods = json!({"spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}});
    admin.merge_accepted("/api/v1/nodes/late", pods).await;
    store.until("its pod CIDR comes", |view| of_late(view) == 1).await;
    admin.delete("/api/v1/nodes/late").await;
    store.until("it goes", |view| nodes(view) == ["a", "b", "c"]).await;
}

pub async fn secrets_are_followed(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    admin.put(SECRETS, &secret("other")).await;
    store.until("the password is rotated", |view| password(view) == md5("other")).await;
    admin.delete(&format!("{SECRETS}/tor")).await;
    let view = store.until("the Secret goes", |view| !view.in_sync).await;
    assert_eq!(password(&view), md5("other"), "the last good one");
    admin.put(SECRETS, &secret("third")).await;
    store.until("it comes back", |view| view.in_sync && password(view) == md5("third")).await;
}

pub async fn a_missing_filter_is_not_in_force(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let path = format!("{OURS}/bgppeers/tor");
    admin.merge(&path, json!({"spec": {"importFilter": "none-such"}})).await;
    let view = store.until("a filter is missing", |view| !view.in_sync).await;
    assert_eq!(object_of(&view.rejections[0]), "BGPPeer tor", "{view:#?}");
    let (rejected, in_force) = generations_of_tor(&view);
    assert_eq!(in_force, Some(rejected - 1), "the one before");
    admin.merge(&path, json!({"spec": {"importFilter": "from-tor"}})).await;
    let view = store.until("the filter exists", |view| view.in_sync).await;
    assert_eq!(generations_of_tor(&view), (rejected + 1, Some(rejected + 1)));
    assert!(
        view.objects.iter().all(|object| object.in_force == Some(object.generation)),
        "{:?}",
        view.objects
    );
}

pub async fn a_secret_that_may_not_be_read(fixture: &mut Fixture) {
    let mut store = fixture.store().await;
    let admin = &fixture.admin;
    let path = format!("{OURS}/bgppeers/tor");
    admin.merge(&path, json!({"spec": {"passwordSecretRef": {"name": "foreign"}}})).await;
    let view =
        store.until("a Secret can't be read", |view| error(view).contains("foreign") && !view.in_sync).await;
    let rejected = |object: &str, problem: &str| {
        view.rejections
            .iter()
            .any(|rejection| object_of(rejection) == object && rejection.problem.contains(problem))
    };
    assert!(
        rejected("Secret foreign", "403") && rejected("BGPPeer tor", "can't be read"),
        "{:#?}",
        view.rejections
    );
    assert_eq!(password(&view), md5("secret"));
    admin.merge(&path, json!({"spec": {"passwordSecretRef": {"name": "tor"}}})).await;
    store.until("it is the right one again", |view| view.in_sync && connected(view)).await;
}
