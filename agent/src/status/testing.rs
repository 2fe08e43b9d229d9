//! A small status for tests.

use heliograph_bgp::report::SessionState;

use super::*;

/// An established session that received 5 prefixes.
pub fn session(name: &str, number: u32, role: NeighborRole) -> SessionStatus {
    SessionStatus {
        peer: Ipv4Addr::from_bits(0xc000_0200 + number).into(),
        name: name.into(),
        asn: 64512,
        role,
        peer_generation: None,
        state: state_name(SessionState::Established),
        uptime_seconds: 60.0,
        received: 5,
        accepted: 5,
        advertised: 1,
        stale: 0,
        router_id: None,
        hold_seconds: Some(90),
        established_count: 1,
        last_error: None,
        errors: Vec::new(),
        history: Vec::new(),
        reason: String::new(),
        bfd: None,
    }
}

/// A node with two mesh neighbours, one of which is down, and one outside, that still waits for its first sync.
pub fn status() -> NodeStatus {
    let mut down = session("b", 2, NeighborRole::Mesh);
    down.state = state_name(SessionState::Idle);
    let mut outside = session("tor \"1\"", 9, NeighborRole::External);
    outside.bfd = Some(BfdStatus {
        state: "Up".into(),
        uptime_seconds: Some(50.0),
        remote_diagnostic: None,
        transmit_interval: None,
        receive_interval: None,
        detection_time: None,
        failure_count: 2,
        reason: String::new(),
    });
    NodeStatus {
        node: "a".into(),
        version: "1.2.3".into(),
        role: Role::Node,
        reflects: false,
        uptime_seconds: 100.0,
        waiting_for: vec!["the peers' first word".into()],
        intent: IntentStatus {
            in_sync: true,
            generation: 3,
            last_change_seconds: Some(9e8),
            ..Default::default()
        },
        store: None,
        status_writer: None,
        sessions: vec![session("c", 3, NeighborRole::Mesh), down, outside],
        routes: vec![RouteCount { family: "ipv4".into(), verdict: "tunnel".into(), count: 3 }],
        kernel: Some(KernelStatus {
            in_sync: true,
            routes: 4,
            desired: 4,
            programmings: 2,
            programming_seconds: 0.25,
            ..Default::default()
        }),
        segments: Vec::new(),
        problems: Vec::new(),
    }
}
