use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::api::Node;
use tokio::time::timeout;

#[test]
fn versions_are_compared_as_numbers() {
    for (newest, ours, expected) in
        [("9", "10", true), ("10", "9", false), ("10", "10", false), ("", "10", true), ("x", "10", true)]
    {
        assert_eq!(is_older(newest, ours), expected, "{newest} {ours}");
    }
}

const fn within(milliseconds: u64) -> RandomDelay {
    RandomDelay { least: Duration::from_millis(milliseconds), per_object: Duration::ZERO }
}

#[test]
fn longer_lists_are_spread_over_a_longer_time() {
    let delay = RandomDelay { least: Duration::from_secs(1), per_object: Duration::from_millis(100) };
    let longest = |objects| (0..200).map(|_| delay.draw(objects)).max().unwrap();
    assert!(longest(0) < Duration::from_secs(1));
    let hundred = longest(100);
    assert!(hundred > Duration::from_secs(5) && hundred < Duration::from_secs(11), "{hundred:?}");
    assert!(longest(usize::MAX) < RESYNC_INTERVAL);
}

const TIMING: Timing = Timing {
    retry: (Duration::from_millis(40), Duration::from_secs(15)),
    stable: WAIT,
    expired: within(1),
    outage: Duration::from_millis(60),
    resync: within(100),
};
const WAIT: Duration = Duration::from_secs(60);

/// The answer of an API server to a request.
enum Answer {
    Json(Value),
    /// A watch with these events, then silence.
    Watch(Vec<Value>),
    /// The connection breaks.
    Nothing,
}

fn nodes(version: u32, names: &[&str]) -> Answer {
    let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    Answer::Json(json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

fn added(name: &str) -> Value {
    json!({"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "resourceVersion": "99"}}})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}})
}

/// Watches an API server that answers by number and URI of each request.
fn watch(
    timing: Timing,
    mut answer: impl FnMut(usize, &str) -> Answer + Send + 'static,
) -> mpsc::Receiver<(u64, Event<()>)> {
    let mut number = 0;
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let answer = answer(number, &request.uri().to_string());
        number += 1;
        let lines =
            |values: Vec<Value>| values.into_iter().map(|value| Ok(Frame::data(format!("{value}\n").into())));
        let frames: futures::stream::BoxStream<Result<Frame<Bytes>, kube::Error>> = match answer {
            Answer::Json(value) => futures::stream::iter(lines(vec![value])).boxed(),
            Answer::Watch(values) => {
                futures::stream::iter(lines(values)).chain(futures::stream::pending()).boxed()
            }
            Answer::Nothing => return std::future::ready(Err(std::io::Error::other("connection reset"))),
        };
        std::future::ready(Ok(http::Response::new(StreamBody::new(frames))))
    });
    let client = ApiClient::new(kube::Client::new(service, "default"));
    let collection =
        Collection::<Node> { api: client.all(), client, name: "nodes".into(), labels: None, fields: None };
    let (sender, events) = mpsc::channel(100);
    tokio::spawn(async move { Watcher::new(collection, |_| (), sender, 1, timing).run().await.is_err() });
    events
}

/// Returns the events up to the one named `last`, in short.
async fn events_until(events: &mut mpsc::Receiver<(u64, Event<()>)>, last: &str) -> String {
    let mut names = Vec::new();
    while names.last().is_none_or(|name| name != last) {
        let (_, event) =
            timeout(WAIT, events.recv()).await.unwrap_or_else(|_| panic!("no {last}: {names:?}")).unwrap();
        names.push(match event {
            Event::Listed(entries) => {
                entries.into_iter().fold("listed".to_string(), |names, (name, _)| names + " " + &name)
            }
            Event::Applied((name, _)) => format!("applied {name}"),
            Event::Deleted(name) => format!("deleted {name}"),
            Event::Watching => "watching".into(),
            Event::Failed(error) if error.kind == ErrorKind::Expired => "expired".into(),
            Event::Failed(_) => "failed".into(),
        });
    }
    names.join(", ")
}

#[tokio::test]
async fn lists_after_expired_watches_have_growing_pauses() {
    let mut events = watch(TIMING, |_, request| {
        if request.contains("watch=") { Answer::Watch(vec![expired()]) } else { nodes(7, &["a"]) }
    });
    assert_eq!(events_until(&mut events, "listed a").await, "listed a");
    for pause in [30, 60, 120] {
        let begin = Instant::now();
        assert_eq!(events_until(&mut events, "listed a").await, "watching, expired, listed a");
        // No pause is ever shorter; a busy machine makes them longer only.
        assert!(begin.elapsed() >= Duration::from_millis(pause), "{:?} of {pause} ms", begin.elapsed());
    }
}

#[tokio::test]
async fn after_an_outage_everything_is_listed_as_another_history_may_have_overtaken_ours() {
    let mut events = watch(TIMING, |number, request| match number {
        0 => nodes(10, &["a"]),
        1..6 => Answer::Nothing,
        _ if request.contains("watch=") => Answer::Watch(vec![added("b")]),
        _ => nodes(20, &["c"]),
    });
    let names = events_until(&mut events, "listed c").await;
    assert!(names.starts_with("listed a, failed, failed, failed"), "{names}");
}

#[tokio::test]
async fn after_a_short_failure_nothing_is_listed() {
    let timing = Timing { outage: WAIT, resync: within(0), ..TIMING };
    let mut events = watch(timing, |number, request| match number {
        0 => nodes(10, &["a"]),
        1 => Answer::Nothing,
        _ if request.contains("watch=") => Answer::Watch(vec![added("b")]),
        _ => nodes(20, &["c"]),
    });
    assert_eq!(events_until(&mut events, "applied b").await, "listed a, failed, watching, applied b");
}

#[tokio::test]
async fn a_history_that_ends_before_our_version_is_listed_at_once() {
    let mut events = watch(TIMING, |number, _| match number {
        0 => nodes(10, &["a"]),
        1 => Answer::Nothing,
        _ => nodes(9, &["c"]),
    });
    assert_eq!(events_until(&mut events, "listed c").await, "listed a, failed, listed c");
}
