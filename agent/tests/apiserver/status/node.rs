//! The objects of a node: its own, its sessions' and its Node's condition.

use std::time::Instant;

use heliograph_agent::status::SessionStatus;
use heliograph_bgp::report::SessionState;
use serde_json::json;

use super::{Agent, condition, generations, kubectl, node_status, observed, session};
use crate::fixture::Fixture;
use crate::rights::grant_manifests;
use crate::user::{OURS, progress, until};

pub async fn the_node_has_no_network_before_the_first_sync(fixture: &mut Fixture) {
    let admin = &fixture.admin;
    fixture.undefine().await;
    let agent = Agent::start(fixture.kubeconfig(), node_status());
    until("the agent has no rights", async || agent.error().contains("403")).await;
    admin.put_node("a", "192.0.2.1", Some("10.244.1.0/24"), json!({})).await;
    grant_manifests(admin, None).await;
    until("the node has no network", async || admin.network_unavailable().await["status"] == "True").await;
    let message = admin.network_unavailable().await["message"].clone();
    assert_eq!(message, "Heliograph's first sync waits for the neighbors");
    until("the kinds are missing", async || agent.error().contains("404")).await;
    agent.change(|status| status.waiting_for.clear());
    until("it has one, kinds or not", async || admin.network_unavailable().await["status"] == "False").await;
    assert_eq!(admin.network_unavailable().await["reason"], "HeliographIsUp");
    admin.define().await;
    fixture.until_written(&agent).await;
}

pub async fn objects_are_written(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    let server = &fixture.server;
    assert_eq!(admin.sessions().await, ["a-192.0.2.2", "a-192.0.2.254", "a-fd00-0-0-0-0-0-0-3"]);
    let uid = admin.get("/api/v1/nodes/a").await.unwrap()["metadata"]["uid"].clone();
    for path in ["bgpsessions/a-192.0.2.2", "bgpnodes/a"] {
        let object = admin.get(&format!("{OURS}/{path}")).await.unwrap();
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], uid, "{path}");
        let managers = object["metadata"]["managedFields"].as_array().unwrap();
        assert!(managers.iter().all(|one| one["manager"] == "heliograph-a"), "{managers:?}");
        assert_eq!(observed(&object), [json!(1)], "{path}");
    }
    let rows = kubectl(server, "bgpsessions");
    let headings =
        ["NAME", "NODE", "PEER", "ASN", "ROLE", "STATE", "UPTIME", "RECEIVED", "ADVERTISED", "BFD", "ERROR"];
    assert_eq!(rows[0], headings);
    assert_eq!(rows[1][..6], ["a-192.0.2.2", "a", "192.0.2.2", "64512", "Mesh", "Connect"]);
    assert_eq!(rows[1].last().unwrap(), "connect: connection refused");
    assert_eq!(rows[2][..6], ["a-192.0.2.254", "a", "192.0.2.254", "64600", "External", "Established"]);
    let role = async |role: heliograph_agent::plan::NeighborRole, generation: i64| {
        agent.change(|status| status.sessions[0].role = role);
        until("a changed role is written", async || {
            let session = admin.session("a-192.0.2.2").await.unwrap_or_default();
            session["metadata"]["generation"] == generation && observed(&session) == [json!(generation)]
        })
        .await;
    };
    role(heliograph_agent::plan::NeighborRole::Client, 2).await;
    role(heliograph_agent::plan::NeighborRole::Mesh, 3).await;
    let rows = kubectl(server, "bgpnodes");
    assert_eq!(rows[0], ["NAME", "ROLE", "SESSIONS", "ROUTES", "TUNNELS", "IN SYNC", "AGE"]);
    assert_eq!(rows[1][..6], ["a", "Node", "2/3", "3", "1", "true"]);
}

pub async fn rejected_objects_are_not_accepted(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    let answer =
        admin.merge(&format!("{OURS}/bgppeers/tor"), json!({"spec": {"importFilter": "none"}})).await;
    assert!(answer.code < 300, "{answer:?}");
    agent.change(|status| {
        status.intent.objects = serde_json::from_value(generations((2, 1), Some(1))).unwrap();
        status.intent.rejections = serde_json::from_value(
            json!([{"file": "", "line": null, "object": {"kind": "BGPPeer", "name": "tor"},
            "field": "spec.importFilter", "problem": "there is no such filter", "remedy": "add it"}]),
        )
        .unwrap();
    });
    until("it is not accepted", async || {
        let (status, generation, message) = condition(admin, "bgppeers/tor", "Accepted").await;
        status == "False" && generation == 2 && message.contains("no such filter")
    })
    .await;
    let (status, generation, _) = condition(admin, "bgppeers/tor", "Established").await;
    assert_eq!((status.as_str(), generation), ("True", json!(1)), "the session uses the one before");
    admin.merge(&format!("{OURS}/bgppeers/tor"), json!({"spec": {"importFilter": null}})).await;
    agent.change(|status| {
        status.intent.objects = serde_json::from_value(generations((3, 3), Some(1))).unwrap();
        status.intent.rejections.clear();
        status.sessions[2].peer_generation = Some(3);
    });
    for kind in ["Accepted", "Established"] {
        until(&format!("{kind}, the newest"), async || {
            let (status, generation, _) = condition(admin, "bgppeers/tor", kind).await;
            status == "True" && generation == 3
        })
        .await;
    }
}

pub async fn session_changes_are_written(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    let state = async || admin.session("a-192.0.2.2").await.unwrap_or_default()["status"].clone();
    agent.change(|status| {
        let session = &mut status.sessions[0];
        (session.state, session.established_count, session.last_error) = (SessionState::Established, 1, None);
    });
    let begun = Instant::now();
    until("the session is up", async || state().await["state"] == "Established").await;
    progress(&format!("a change is written after {:?}", begun.elapsed()));
    assert!(state().await.get("error").is_none());
    until("the node counts it", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["sessions"]["established"] == "3/3"
    })
    .await;
    agent.change(|status| {
        let session = &mut status.sessions[0];
        (session.state, session.last_error) = (SessionState::Idle, Some("hold timer expired".into()));
    });
    until("it is down again", async || state().await["error"] == "hold timer expired").await;
    until("Events are written", async || {
        let events = admin.events().await;
        let written = |reason: &str| {
            events
                .iter()
                .any(|event| event["reason"] == reason && event["regarding"]["name"] == "a-192.0.2.2")
        };
        written("SessionUp") && written("SessionDown")
    })
    .await;
    let uid = admin.session("a-192.0.2.2").await.unwrap()["metadata"]["uid"].clone();
    let events = admin.events().await;
    let down = events.iter().find(|event| event["reason"] == "SessionDown").unwrap();
    assert_eq!((&down["type"], &down["regarding"]["uid"]), (&json!("Warning"), &uid));
}

pub async fn objects_are_deleted_with_their_sessions(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    agent.change(|status| {
        status.sessions.retain(|session| session.name != "c");
    });
    until("the session of a removed neighbor is deleted", async || admin.sessions().await.len() == 2).await;
    // A user deletes one: the next change writes it again.
    admin.delete(&format!("{OURS}/bgpsessions/a-192.0.2.2")).await;
    agent.change(|status| status.sessions[0].last_error = Some("another".into()));
    until("it is there again", async || {
        admin.session("a-192.0.2.2").await.is_some_and(|session| session["status"]["error"] == "another")
    })
    .await;
}

pub async fn a_large_mesh_is_counted(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    agent.change(|status| status.sessions.retain(|session| session.name != "c"));
    until("there are few sessions", async || admin.sessions().await.len() == 2).await;
    agent.change(|status| {
        status.sessions.extend((0..100).map(|number| {
            let state = if number < 3 { "Active" } else { "Established" };
            let peer = format!("198.51.100.{number}");
            serde_json::from_value::<SessionStatus>(session("n", &peer, "Mesh", state)).unwrap()
        }));
    });
    until("only sessions that are down, or not with nodes, are written", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        let status = &node["status"];
        status["unlistedSessions"] == 97
            && status["sessions"]["total"] == 102
            && admin.sessions().await.len() == 5
    })
    .await;
    agent.change(|status| status.sessions.truncate(2));
    until("all of few are written", async || admin.sessions().await.len() == 2).await;
}

pub async fn a_restarted_agent_takes_over(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    agent.stop().await;
    let before = admin.network_unavailable().await;
    // It has no intent yet.
    let mut empty = node_status();
    empty["sessions"] = json!([]);
    let agent = Agent::start(fixture.kubeconfig(), empty);
    until("the node's status is written", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["sessions"]["established"] == "0/0"
    })
    .await;
    assert_eq!(admin.sessions().await.len(), 3, "sessions stay until the first sync");
    assert_eq!(admin.network_unavailable().await, before);
    agent.change(|status| {
        status.waiting_for.clear();
        status.sessions =
            vec![serde_json::from_value(session("tor", "192.0.2.254", "External", "Established")).unwrap()];
    });
    until("removed sessions are deleted", async || admin.sessions().await == ["a-192.0.2.254"]).await;
    assert_eq!(admin.network_unavailable().await, before);
    agent.stop().await;
}
