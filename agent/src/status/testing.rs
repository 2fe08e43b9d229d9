//! A small status for tests.

use super::*;

/// Returns an established session that received 5 prefixes.
pub fn session(name: &str, number: u32, role: NeighborRole) -> SessionStatus {
    SessionStatus {
        peer: Ipv4Addr::from_bits(0xc000_0200 + number).into(),
        name: name.into(),
        asn: 64512,
        role,
        peer_generation: None,
        state: SessionState::Established,
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

/// Returns the status of a node before its first sync, with two mesh neighbors, one of which is down, and an external
/// one.
pub fn status() -> NodeStatus {
    let mut down = session("b", 2, NeighborRole::Mesh);
    down.state = SessionState::Idle;
    let mut outside = session("tor \"1\"", 9, NeighborRole::External);
    outside.bfd = Some(BfdStatus {
        state: bfd::State::Up,
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
        waiting_for: vec!["the neighbors' End-of-RIB".into()],
        intent: IntentStatus {
            in_sync: true,
            generation: 3,
            last_change_timestamp_seconds: Some(9e8),
            ..Default::default()
        },
        store: None,
        status_writer: None,
        sessions: vec![session("c", 3, NeighborRole::Mesh), down, outside],
        route_counts: vec![RouteCount { family: IpFamily::V4, disposition: Disposition::Tunnel, count: 3 }],
        kernel: Some(KernelStatus {
            in_sync: true,
            routes: 4,
            desired: 4,
            reconciliations: 2,
            reconcile_seconds: 0.25,
            ..Default::default()
        }),
        next_hops: Vec::new(),
        problems: Vec::new(),
    }
}
