use super::super::planner::{Permitted, Planner, RateLimits};
use super::*;
use crate::plan::NeighborRole;
use crate::status::{StoreStatus, testing};
use heliograph_bgp::report::SessionState;
use std::time::Instant;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn mesh(sessions: u32, down: u32) -> NodeStatus {
    let mut status = testing::status();
    status.waiting_for.clear();
    status.sessions =
        (0..sessions).map(|n| testing::session(&format!("n{n}"), n, NeighborRole::Mesh)).collect();
    status.sessions.iter_mut().take(down as usize).for_each(|session| session.state = SessionState::Idle);
    status.sessions.push(testing::session("tor", 9000, NeighborRole::External));
    status
}

#[test]
fn a_small_node_has_an_object_for_each_session() {
    let mut status = testing::status();
    status.sessions[1].last_error = Some("connection refused".into());
    let objects = Renderer::default().objects(&status, at(0));
    let [node, up, down, _] = &objects[..] else { panic!("{objects:#?}") };
    assert_eq!(node.key, ObjectRef { kind: ObjectKind::BGPNode, name: "a".into() });
    assert_eq!(node.status["sessions"], serde_json::json!({"up": 2, "total": 3, "established": "2/3"}));
    assert_eq!((&node.status["routes"], &node.status["inSync"]), (&3.into(), &true.into()));
    assert_eq!(node.status["conditions"][0]["message"], "the neighbors' End-of-RIB");
    assert_eq!(node.status["conditions"][2]["message"], "not established: b (192.0.2.2)");
    assert_eq!(up.key.name, "a-192.0.2.3");
    assert_eq!((&up.spec["peerName"], &up.spec["peerKind"]), (&"c".into(), &"Node".into()));
    assert_eq!((&up.status["state"], &up.status["received"]), (&"Established".into(), &5.into()));
    assert_eq!(up.status["since"], "1970-01-12T13:45:40Z");
    assert!(up.status.get("error").is_none());
    assert_eq!(down.status["error"], "connection refused");
    assert_eq!(down.status["conditions"][0]["status"], "False");
    assert_eq!(objects[3].spec["peerKind"], "BGPPeer");
}

#[test]
fn a_change_of_the_role_is_a_signal() {
    let mut status = testing::status();
    let node = |status: &NodeStatus| Renderer::default().objects(status, at(0)).swap_remove(0);
    let before = node(&status);
    assert_eq!(before.status["role"], "Node");
    status.reflects = true;
    let reflecting = node(&status);
    assert_eq!(reflecting.status["role"], "Reflector");
    assert_ne!(reflecting.signal, before.signal);
    (status.reflects, status.role) = (false, Role::Reflector);
    assert_eq!(node(&status).status["role"], "Reflector");
}

#[test]
fn since_is_the_time_at_which_the_session_was_established_or_went_down() {
    let mut renderer = Renderer::default();
    let mut status = testing::status();
    let since = |renderer: &mut Renderer, status: &NodeStatus, now| {
        renderer.objects(status, at(now))[1].status["since"].clone()
    };
    let first = since(&mut renderer, &status, 0);
    status.sessions[0].uptime_seconds = 61.4;
    assert_eq!(since(&mut renderer, &status, 1), first);
    // Down, and from state to state.
    (status.sessions[0].state, status.sessions[0].uptime_seconds) = (SessionState::Idle, 0.0);
    let down = since(&mut renderer, &status, 10);
    assert_ne!(down, first);
    status.sessions[0].state = SessionState::Connect;
    assert_eq!(since(&mut renderer, &status, 20), down);
    // Up again between two calls.
    (status.sessions[0].state, status.sessions[0].established_count) = (SessionState::Established, 2);
    let up = since(&mut renderer, &status, 30);
    status.sessions[0].established_count = 3;
    assert_ne!(since(&mut renderer, &status, 40), up);
}

#[test]
fn with_many_nodes_only_sessions_that_are_down_are_listed() {
    let cases = [(50, 0, 51), (50, 30, 51), (51, 0, 1), (51, 3, 4), (1000, 0, 1), (1000, 999, 21)];
    for (nodes, down, sessions) in cases {
        let status = mesh(nodes, down);
        let objects = Renderer::default().objects(&status, at(0));
        assert_eq!(objects.len() - 1, sessions, "{nodes} nodes, {down} down");
        let unlisted = objects[0].status["unlistedSessions"].as_u64().unwrap();
        assert_eq!(unlisted as usize + sessions, nodes as usize + 1);
    }
    let mut starting = mesh(1000, 1000);
    starting.waiting_for = vec!["everybody".into()];
    assert_eq!(listed(&starting).len(), 1);
}

#[test]
fn texts_are_short() {
    let mut status = mesh(10, 10);
    status.problems = vec!["é".repeat(5000); 50];
    status.sessions[0].last_error = Some("x".repeat(5000));
    let objects = Renderer::default().objects(&status, at(0));
    let size: usize = objects.iter().map(|object| object.status.to_string().len()).sum();
    assert!(size < 30_000, "{size}");
    assert_eq!(objects[0].status["problems"].as_array().unwrap().len(), MAX_PROBLEMS);
}

#[test]
fn requests_that_the_store_rejects_are_a_problem_and_its_absence_is_not() {
    let mut status = mesh(1, 0);
    status.intent.in_sync = false;
    for rejected in [true, false] {
        let error = "list nodes: the API server answered 400".to_string();
        status.problems = vec![error.clone()];
        let (server, last_error) = ("https://api".into(), Some(error.clone()));
        status.store = Some(StoreStatus {
            server,
            connected: false,
            since_seconds: 1.0,
            last_error,
            rejected,
            node_uid: None,
        });
        let node = &Renderer::default().objects(&status, at(0))[0].status;
        let listed =
            node["problems"].as_array().is_some_and(|problems| problems.contains(&error.clone().into()));
        assert_eq!((listed, node["conditions"][1]["message"] == error.as_str()), (rejected, rejected));
    }
}

/// Counts the writes of one agent while the whole cluster starts, runs for an hour, and loses one node.
#[test]
fn writes_grow_with_the_number_of_nodes_and_not_with_its_square() {
    for nodes in [100u32, 1000] {
        let start = Instant::now();
        let (mut renderer, mut planner) = (Renderer::default(), Planner::new(RateLimits::AGENT, start));
        let mut writes = [0; 3];
        // Each second after a change; then every 30 s, in which nothing changes.
        let seconds =
            (0..300).chain((300..3600).step_by(30)).chain(3600..3900).chain((3900..7200).step_by(30));
        for second in seconds {
            let now = start + Duration::from_secs(second.into());
            let mut status = mesh(nodes, nodes.saturating_sub(second * nodes / 60));
            if second < 60 {
                status.waiting_for = vec!["everybody".into()];
            }
            if second >= 3600 {
                status.sessions[7].state = SessionState::Idle;
            }
            let objects = renderer.objects(&status, at(second.into()));
            for write in
                planner.plan(&objects, Permitted { create: true, delete: status.waiting_for.is_empty() }, now)
            {
                writes[match second {
                    0..300 => 0,
                    300..3600 => 1,
                    _ => 2,
                }] += 1;
                planner.done(write, "1", now);
            }
        }
        // The start; no change; one node is down: its session, and the counts.
        assert!(writes[0] < 30 && writes[1] == 0 && writes[2] == 2, "{nodes} nodes: {writes:?}");
    }
}
