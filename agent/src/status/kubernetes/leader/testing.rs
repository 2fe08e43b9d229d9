//! A BGPSession for tests.

use serde_json::json;

use crate::api::BGPSession;

/// Returns the session of a node with a generation of a BGPPeer.
pub fn session(node: &str, peer: &str, up: bool, generation: i64) -> BGPSession {
    serde_json::from_value(json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPSession",
        "metadata": {"name": format!("{node}-{peer}")},
        "spec": {"node": node, "peer": "192.0.2.1", "peerKind": "BGPPeer", "peerName": peer, "peerASN": 64600,
            "role": "External"},
        "status": {"peerGeneration": generation, "conditions": [{"type": "Established",
            "status": if up { "True" } else { "False" }, "reason": "x", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
    .unwrap()
}
