//! The status of BGPPeers: the sessions of all nodes.

use heliograph_agent::status::NodeStatus;
use heliograph_bgp::report::SessionState;
use serde_json::{Value, json};

use super::{condition, counted, generations, kubectl, tor_session};
use crate::fixture::Fixture;
use crate::objects::ours;
use crate::user::{OURS, until};

pub async fn a_peer_counts_its_sessions(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    let server = &fixture.server;
    let true_ = |message: &str| ("True".to_string(), json!(1), message.to_string());
    assert_eq!(condition(admin, "bgppeers/tor", "Established").await, true_(""));
    for path in ["bgppeers/tor", "bgppeers/nobody", "bgpfilters/f", "bgpconfigurations/default"] {
        assert_eq!(condition(admin, path, "Accepted").await, true_("in force on a"), "{path}");
    }
    let rows = kubectl(server, "bgppeers");
    assert_eq!(rows[0], ["NAME", "PEER", "ASN", "SESSIONS", "ACCEPTED", "AGE"]);
    assert_eq!(rows[2][..5], ["tor", "192.0.2.254", "64600", "1/1", "True"]);
    for (kind, headings) in [
        ("bgpfilters", &["NAME", "OTHERWISE", "ACCEPTED", "AGE"][..]),
        ("bgpconfigurations", &["NAME", "ASN", "TOPOLOGY", "ENCAPSULATION", "ACCEPTED", "AGE"]),
    ] {
        let rows = kubectl(server, kind);
        assert_eq!(rows[0], headings);
        assert_eq!(rows[1][headings.len() - 2], "True");
    }
}

pub async fn sessions_of_a_dead_node_do_not_count(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    // A BGPPeer of its own: an object that changes often is written with growing pauses.
    let far = json!({"peerAddress": "192.0.2.252", "peerASN": 64600});
    admin.put(&format!("{OURS}/bgppeers"), &ours("BGPPeer", "far", far)).await;
    admin.put_node("b", "192.0.2.2", Some("10.244.2.0/24"), json!({})).await;
    let ready = async |status: &str| {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let answer = admin.merge("/api/v1/nodes/b/status", status).await;
        assert!(answer.code < 300, "{answer:?}");
    };
    ready("True").await;
    let spec = json!({"node": "b", "peer": "192.0.2.252", "peerKind": "BGPPeer", "peerName": "far",
        "peerASN": 64600, "role": "External"});
    admin.put(&format!("{OURS}/bgpsessions"), &ours("BGPSession", "b-192.0.2.252", spec)).await;
    let up = json!({"status": {"state": "Established", "conditions": [{"type": "Established", "status": "True",
        "reason": "Established", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let answer = admin.merge(&format!("{OURS}/bgpsessions/b-192.0.2.252/status"), up).await;
    assert!(answer.code < 300, "{answer:?}");
    until("it is up", async || counted(admin, "far").await == "1/1").await;
    ready("Unknown").await;
    until("it isn't any more", async || counted(admin, "far").await == "0/1").await;
    let (status, _, message) = condition(admin, "bgppeers/far", "Established").await;
    assert_eq!((status.as_str(), message.as_str()), ("False", "unreachable nodes: b"));
    ready("True").await;
    until("it is back", async || counted(admin, "far").await == "1/1").await;
    for path in ["bgpsessions/b-192.0.2.252", "bgppeers/far"] {
        admin.delete(&format!("{OURS}/{path}")).await;
    }
    admin.delete("/api/v1/nodes/b").await;
}

/// An admission policy rejects the writes to one object.
pub async fn a_rejected_write_delays_no_other(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let object = |kind: &str, spec: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hands-off"},
            "spec": spec})
    };
    let rule = json!({"apiGroups": ["heliograph.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
        "resources": ["bgppeers/status"], "resourceNames": ["nobody"]});
    let policy = json!({"matchConstraints": {"resourceRules": [rule]}, "failurePolicy": "Fail",
        "validations": [{"expression": "false", "message": "hands off"}]});
    let binding = json!({"policyName": "hands-off", "validationActions": ["Deny"]});
    let policies = format!("{admission}/validatingadmissionpolicies");
    let bindings = format!("{admission}/validatingadmissionpolicybindings");
    admin.put(&policies, &object("ValidatingAdmissionPolicy", policy)).await;
    admin.put(&bindings, &object("ValidatingAdmissionPolicyBinding", binding)).await;
    until("the policy is in force", async || {
        let patch = json!({"status": {"sessions": {"established": "none"}}});
        admin.merge(&format!("{OURS}/bgppeers/nobody/status"), patch).await.code >= 400
    })
    .await;
    let rejected = |status: &mut NodeStatus| {
        status.intent.objects = serde_json::from_value(generations((1, 1), None)).unwrap()
    };
    agent.change(rejected);
    until("the error is reported", async || agent.error().contains("hands off")).await;
    // The objects after it are written nevertheless.
    agent.change(|status| status.sessions[2].state = SessionState::Idle);
    until("the other is counted", async || counted(admin, "tor").await == "0/1").await;
    admin.delete(&format!("{bindings}/hands-off")).await;
    admin.delete(&format!("{policies}/hands-off")).await;
    until("it is written, too", async || {
        condition(admin, "bgppeers/nobody", "Accepted").await.0 == "False"
            && counted(admin, "nobody").await == "0/0"
    })
    .await;
    agent.until_no_error().await;
}

pub async fn a_peer_without_sessions_counts_none(fixture: &mut Fixture) {
    let agent = fixture.agent().await;
    fixture.peers(&agent).await;
    let admin = &fixture.admin;
    agent.change(|status| {
        status.sessions.pop();
    });
    until("there are none", async || counted(admin, "tor").await == "0/0").await;
    let (status, generation, message) = condition(admin, "bgppeers/tor", "Established").await;
    assert_eq!((status.as_str(), generation), ("False", json!(1)));
    assert_eq!(message, "no node has a session with it");
    agent.change(|status| status.sessions.push(serde_json::from_value(tor_session()).unwrap()));
    until("there is one again", async || counted(admin, "tor").await == "1/1").await;
}
