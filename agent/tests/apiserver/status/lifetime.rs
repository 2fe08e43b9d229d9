//! The lifetime of a node's objects, which ends with their Node.

use heliograph_agent::status::StoreStatus;
use heliograph_bgp::report::SessionState;
use serde_json::json;

use crate::fixture::Fixture;
use crate::user::{OURS, User, until};

/// Deletes Node a and, as the garbage collector does, the objects that it owns.
async fn delete_node(admin: &User) {
    admin.delete("/api/v1/nodes/a").await;
    admin.delete(&format!("{OURS}/bgpnodes/a")).await;
    for session in admin.sessions().await {
        admin.delete(&format!("{OURS}/bgpsessions/{session}")).await;
    }
}

/// There is no garbage collector here: the test deletes the objects in its place.
pub async fn nothing_is_left_of_a_deleted_node(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    delete_node(admin).await;
    // The agent still runs, and its status changes.
    agent.change(|status| status.sessions[0].last_error = Some("the node is gone".into()));
    until("the error is reported", async || agent.error().contains("there is no Node")).await;
    agent.change(|status| status.sessions[0].state = SessionState::Active);
    agent.until_compared().await;
    assert_eq!(admin.sessions().await, [""; 0]);
    assert!(admin.get(&format!("{OURS}/bgpnodes/a")).await.is_none(), "nothing would ever delete it");
}

pub async fn objects_follow_a_node_that_is_made_again(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    // As the garbage collector leaves it.
    delete_node(admin).await;
    let make = async || {
        admin.put_node("a", "192.0.2.1", Some("10.244.1.0/24"), json!({})).await;
        let uid =
            admin.get("/api/v1/nodes/a").await.unwrap()["metadata"]["uid"].as_str().unwrap().to_string();
        agent.change(|status| {
            status.store = Some(StoreStatus {
                server: "test".into(),
                connected: true,
                since_seconds: 1e6,
                last_error: None,
                node_uid: Some(uid.clone()),
                rejected: false,
            });
        });
        for path in ["bgpnodes/a", "bgpsessions/a-192.0.2.2", "bgpsessions/a-192.0.2.254"] {
            until(&format!("{path} belongs to the new Node"), async || {
                let object = admin.get(&format!("{OURS}/{path}")).await.unwrap_or_default();
                let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                owners.iter().map(|owner| &owner["uid"]).eq([uid.as_str()]) && object["status"].is_object()
            })
            .await;
        }
        until("the Node has a network", async || admin.network_unavailable().await["status"] == "False")
            .await;
    };
    make().await;
    // Deleted and made again before the garbage collector deletes our objects.
    admin.delete("/api/v1/nodes/a").await;
    make().await;
    agent.until_no_error().await;
}
