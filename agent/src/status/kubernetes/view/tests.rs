use super::super::planner::{May, Pace, Planner};
use super::*;
use crate::plan::NeighborRole;
use crate::status::{StoreStatus, testing};
use std::time::Instant;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn mesh(sessions: u32, down: u32) -> NodeStatus {
    let mut status = testing::status();
    status.waiting_for.clear();
    status.sessions =
        (0..sessions).map(|n| testing::session(&format!("n{n}"), n, NeighborRole::Mesh)).collect();
    status.sessions.iter_mut().take(down as usize).for_each(|session| session.state = "Idle".into());
    status.sessions.push(testing::session("tor", 9000, NeighborRole::External));
    status
}

#[test]
fn a_small_node_is_told_whole() {
    let mut status = testing::status();
    status.sessions[1].last_error = Some("connection refused".into());
    let objects = View::default().objects(&status, at(0));
    let [node, up, down, _] = &objects[..] else { panic!("{objects:#?}") };
    assert_eq!(node.key, Key { kind: Kind::Node, name: "a".into() });
    assert_eq!(node.status["sessions"], serde_json::json!({"up": 2, "total": 3, "established": "2/3"}));
    assert_eq!((&node.status["routes"], &node.status["inSync"]), (&3.into(), &true.into()));
    assert_eq!(node.status["conditions"][0]["message"], "the peers' first word");
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
fn a_node_that_reflects_says_so_at_once() {
    let mut status = testing::status();
    let node = |status: &NodeStatus| View::default().objects(status, at(0)).swap_remove(0);
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
fn since_is_when_routes_began_or_ceased_to_flow() {
    let mut view = View::default();
    let mut status = testing::status();
    let since =
        |view: &mut View, status: &NodeStatus, now| view.objects(status, at(now))[1].status["since"].clone();
    let first = since(&mut view, &status, 0);
    status.sessions[0].uptime_seconds = 61.4;
    assert_eq!(since(&mut view, &status, 1), first);
    // Down, and from state to state.
    (status.sessions[0].state, status.sessions[0].uptime_seconds) = ("Idle".into(), 0.0);
    let down = since(&mut view, &status, 10);
    assert_ne!(down, first);
    status.sessions[0].state = "Connect".into();
    assert_eq!(since(&mut view, &status, 20), down);
    // Up again between two looks.
    (status.sessions[0].state, status.sessions[0].established_count) = ("Established".into(), 2);
    let up = since(&mut view, &status, 30);
    status.sessions[0].established_count = 3;
    assert_ne!(since(&mut view, &status, 40), up);
}

#[test]
fn of_many_nodes_only_those_that_are_missing_are_listed() {
    let cases = [(50, 0, 51), (50, 30, 51), (51, 0, 1), (51, 3, 4), (1000, 0, 1), (1000, 999, 21)];
    for (nodes, down, sessions) in cases {
        let status = mesh(nodes, down);
        let objects = View::default().objects(&status, at(0));
        assert_eq!(objects.len() - 1, sessions, "{nodes} nodes, {down} down");
        let unlisted = objects[0].status["unlistedSessions"].as_u64().unwrap();
        assert_eq!(unlisted as usize + sessions, nodes as usize + 1);
    }
    let mut starting = mesh(1000, 1000);
    starting.waiting_for = vec!["everybody".into()];
    assert_eq!(listed(&starting).len(), 1);
}

#[test]
fn words_are_few() {
    let mut status = mesh(10, 10);
    status.problems = vec!["é".repeat(5000); 50];
    status.sessions[0].last_error = Some("x".repeat(5000));
    let objects = View::default().objects(&status, at(0));
    let size: usize = objects.iter().map(|object| object.status.to_string().len()).sum();
    assert!(size < 30_000, "{size}");
    assert_eq!(objects[0].status["problems"].as_array().unwrap().len(), MOST_PROBLEMS);
}

#[test]
fn a_store_that_is_refused_is_told_and_one_that_was_away_is_not() {
    let mut status = mesh(1, 0);
    status.intent.in_sync = false;
    for refused in [true, false] {
        let error = "list nodes: the API server answered 400".to_string();
        status.problems = vec![error.clone()];
        let (server, last_error) = ("https://api".into(), Some(error.clone()));
        status.store = Some(StoreStatus {
            server,
            connected: false,
            since_seconds: 1.0,
            last_error,
            refused,
            node_uid: None,
        });
        let node = &View::default().objects(&status, at(0))[0].status;
        let told =
            node["problems"].as_array().is_some_and(|problems| problems.contains(&error.clone().into()));
        assert_eq!((told, node["conditions"][1]["message"] == error.as_str()), (refused, refused));
    }
}

/// The whole cluster starts, runs for an hour, and one node of it goes: how much each agent writes.
#[test]
fn writes_grow_with_nodes_and_not_with_their_square() {
    for nodes in [100u32, 1000] {
        let start = Instant::now();
        let (mut view, mut planner) = (View::default(), Planner::new(Pace::AGENT, start));
        let mut writes = [0; 3];
        for second in 0..7200u32 {
            let now = start + Duration::from_secs(second.into());
            let mut status = mesh(nodes, nodes.saturating_sub(second * nodes / 60));
            if second < 60 {
                status.waiting_for = vec!["everybody".into()];
            }
            if second >= 3600 {
                status.sessions[7].state = "Idle".into();
            }
            let objects = view.objects(&status, at(second.into()));
            for write in
                planner.plan(&objects, May { make: true, remove: status.waiting_for.is_empty() }, now)
            {
                writes[match second {
                    0..300 => 0,
                    300..3600 => 1,
                    _ => 2,
                }] += 1;
                planner.done(write, "1", now);
            }
        }
        // Starting; nothing happens; one node is away: its session, and the count.
        assert!(writes[0] < 30 && writes[1] == 0 && writes[2] == 2, "{nodes} nodes: {writes:?}");
    }
}
