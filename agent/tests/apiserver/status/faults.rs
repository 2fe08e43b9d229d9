//! Faults: rights that are missing, and an API server that answers with errors or not at all.

use heliograph_bgp::report::SessionState;
use serde_json::json;

use super::session;
use crate::fixture::Fixture;
use crate::objects::{SECRETS, ours, secret};
use crate::proxy::{Fault, Proxy};
use crate::rights::{grant_manifests, granted, used};
use crate::store::{in_force, md5, password};
use crate::user::{OURS, until};

/// An agent with its store uses all rights of the manifests, and lacks none.
pub async fn granted_rights_are_used(fixture: &mut Fixture) {
    let before = fixture.server.audit().len();
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    admin.put(SECRETS, &secret("secret")).await;
    // Events, and a session that is deleted.
    agent.change(|status| {
        let session = &mut status.sessions[0];
        (session.state, session.established_count, session.last_error) = (SessionState::Established, 1, None);
    });
    until("an Event is written", async || !admin.events().await.is_empty()).await;
    agent.change(|status| status.sessions.retain(|session| session.name != "c"));
    until("a session is deleted", async || admin.sessions().await.len() == 2).await;
    let mut store = fixture.start_store();
    store.until("the store has the password", |view| password(view) == md5("secret")).await;
    // When an object is gone, the store looks for its definition.
    let gone = ours("BGPPeer", "gone", json!({"peerAddress": "192.0.2.250", "peerASN": 64650}));
    admin.put(&format!("{OURS}/bgppeers"), &gone).await;
    store
        .until("the store has it", |view| in_force(view).is_some_and(|all| all.peers.contains_key("gone")))
        .await;
    admin.delete(&format!("{OURS}/bgppeers/gone")).await;
    let granted = granted();
    let used = || used(&fixture.server.audit()[before..]);
    until(&format!("{granted:?} are all used"), async || granted.is_subset(&used().0)).await;
    let (used, denied) = used();
    assert_eq!(used, granted, "used and granted");
    // Until the grant was in force.
    let denied: Vec<_> = denied.difference(&granted).collect();
    assert!(denied.is_empty(), "{denied:?}");
}

pub async fn a_missing_right_delays_nothing_else(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    let admin = &fixture.admin;
    grant_manifests(admin, Some("bgpsessions/status")).await;
    let session = async || admin.session("a-192.0.2.2").await.unwrap_or_default()["status"].clone();
    // It is forbidden from the first write after the API server has the new role.
    let mut turn = 0;
    until("the error is reported", async || {
        turn += 1;
        agent.change(|status| status.sessions[0].last_error = Some(format!("error {turn}")));
        agent.error().contains("403")
    })
    .await;
    agent.change(|status| {
        status.problems = vec!["something else".into()];
        status.sessions[0].last_error = Some("the last error".into());
    });
    until("the node is written nevertheless", async || {
        let node = admin.get(&format!("{OURS}/bgpnodes/a")).await.unwrap_or_default();
        node["status"]["problems"] == json!(["something else"])
    })
    .await;
    assert!(
        agent.error().contains("bgpsessions a-192.0.2.2"),
        "the error is still reported: {:?}",
        agent.error()
    );
    grant_manifests(admin, None).await;
    until("the session is written, too", async || session().await["error"] == "the last error").await;
    agent.until_no_error().await;
    agent.change(|status| status.problems.clear());
}

pub async fn writes_are_repeated_after_errors(fixture: &mut Fixture) {
    let proxy = Proxy::start(fixture.server.client("agent").await).await;
    let agent = fixture.agent_at(proxy.kubeconfig()).await;
    fixture.until_written(&agent).await;
    let admin = &fixture.admin;
    let faults = [409, 410, 422, 429, 500, 503, 504].map(Fault::Answer);
    for (number, fault) in faults.into_iter().chain([Fault::Silence]).enumerate() {
        let failures = agent.failures();
        proxy.set(Some(fault));
        // Each time another session: one that changes often is written with growing pauses.
        let peer = format!("203.0.113.{number}");
        let new = session("n", &peer, "Mesh", "Established");
        agent.change(|status| status.sessions.push(serde_json::from_value(new).unwrap()));
        until(&format!("{fault:?} is reported"), async || match fault {
            Fault::Answer(code @ (429 | 500..)) => agent.error().contains(&format!("answered {code}")),
            // Another failed request may be reported first.
            Fault::Answer(_) => !agent.error().is_empty() && agent.failures() > failures,
            Fault::Silence => agent.error().contains("no answer"),
        })
        .await;
        proxy.set(None);
        until("the session is written", async || {
            let written = admin.session(&format!("a-{peer}")).await;
            written.is_some_and(|session| session["status"]["state"] == "Established")
        })
        .await;
    }
    agent.until_no_error().await;
    agent.change(|status| status.sessions.truncate(3));
    until("those sessions are gone", async || admin.sessions().await.len() == 3).await;
}

pub async fn writes_are_repeated_after_a_stop(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.server.down();
    agent.change(|status| status.sessions[0].last_error = Some("yet another".into()));
    until("the server is away", async || agent.error().contains("can't be reached")).await;
    fixture.server.up(true).await;
    until("the change is written", async || {
        fixture
            .admin
            .session("a-192.0.2.2")
            .await
            .is_some_and(|session| session["status"]["error"] == "yet another")
    })
    .await;
    agent.until_no_error().await;
}
