use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::api::Node;

#[test]
fn versions_are_compared_as_numbers() {
    for (newest, ours, expected) in
        [("9", "10", true), ("10", "9", false), ("10", "10", false), ("", "10", true), ("x", "10", true)]
    {
        assert_eq!(older(newest, ours), expected, "{newest} {ours}");
    }
}

const fn within(milliseconds: u64) -> Spread {
    Spread { least: Duration::from_millis(milliseconds), each: Duration::ZERO }
}

#[test]
fn longer_lists_are_spread_over_a_longer_time() {
    let spread = Spread { least: Duration::from_secs(1), each: Duration::from_millis(100) };
    let longest = |objects| (0..200).map(|_| spread.moment(objects)).max().unwrap();
    assert!(longest(0) < Duration::from_secs(1));
    let hundred = longest(100);
    assert!(hundred > Duration::from_secs(5) && hundred < Duration::from_secs(11), "{hundred:?}");
    assert!(longest(usize::MAX) < RELIST);
}

const PACE: Pace = Pace {
    pauses: (Duration::from_millis(40), Duration::from_secs(15)),
    lasting: WAIT,
    expired: within(1),
    outage: Duration::from_millis(60),
    relist: within(100),
};
const WAIT: Duration = Duration::from_secs(60);

/// What an API server does with a request.
enum Answer {
    Json(Value),
    /// These, and then nothing.
    Watch(Vec<Value>),
    /// The connection breaks.
    Nothing,
}

fn nodes(version: u32, names: &[&str]) -> Answer {
    let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    Answer::Json(json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

fn set(name: &str) -> Value {
    json!({"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "resourceVersion": "99"}}})
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}})
}

/// Follows an API server that answers like that, by the number and the words of each request.
fn follow(
    pace: Pace,
    mut answer: impl FnMut(usize, &str) -> Answer + Send + 'static,
) -> mpsc::Receiver<(u64, Event)> {
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
            Answer::Nothing => return std::future::ready(Err(std::io::Error::other("nobody is there"))),
        };
        std::future::ready(Ok(http::Response::new(StreamBody::new(frames))))
    });
    let selection = Selection::<Node> {
        api: Api::all(kube::Client::new(service, "default")),
        what: "nodes".into(),
        labels: None,
        fields: None,
    };
    let (tell, told) = mpsc::channel(100);
    let read = |node: Node| (node.name_any(), Err(Unread { generation: None, problems: Vec::new() }));
    tokio::spawn(async move { Source::new(selection, read, tell, 1, pace).run().await.is_err() });
    told
}

/// What is told, in short, until something is.
async fn told_until(told: &mut mpsc::Receiver<(u64, Event)>, last: &str) -> String {
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != last) {
        let (_, event) =
            timeout(WAIT, told.recv()).await.unwrap_or_else(|_| panic!("no {last}: {words:?}")).unwrap();
        words.push(match event {
            Event::Listed(entries) => {
                entries.into_iter().fold("listed".to_string(), |words, (name, _)| words + " " + &name)
            }
            Event::Set((name, _)) => format!("set {name}"),
            Event::Gone(name) => format!("gone {name}"),
            Event::Reached => "reached".into(),
            Event::Failed(failure) if failure.expired => "expired".into(),
            Event::Failed(_) => "failed".into(),
        });
    }
    words.join(", ")
}

#[tokio::test]
async fn what_expires_each_time_is_said_and_listed_with_growing_pauses() {
    let mut told = follow(PACE, |_, request| {
        if request.contains("watch=") { Answer::Watch(vec![expired()]) } else { nodes(7, &["a"]) }
    });
    assert_eq!(told_until(&mut told, "listed a").await, "listed a");
    for pause in [30, 60, 120] {
        let begun = Instant::now();
        assert_eq!(told_until(&mut told, "listed a").await, "reached, expired, listed a");
        // No pause is ever shorter; a busy machine makes them longer only.
        assert!(begun.elapsed() >= Duration::from_millis(pause), "{:?} of {pause} ms", begun.elapsed());
    }
}

#[tokio::test]
async fn after_an_outage_all_is_listed_as_another_history_may_have_overtaken_ours() {
    let mut told = follow(PACE, |number, request| match number {
        0 => nodes(10, &["a"]),
        1..6 => Answer::Nothing,
        _ if request.contains("watch=") => Answer::Watch(vec![set("b")]),
        _ => nodes(20, &["c"]),
    });
    let words = told_until(&mut told, "listed c").await;
    assert!(words.starts_with("listed a, failed, failed, failed"), "{words}");
}

#[tokio::test]
async fn a_short_failure_is_no_reason_to_list_anything() {
    let pace = Pace { outage: WAIT, relist: within(0), ..PACE };
    let mut told = follow(pace, |number, request| match number {
        0 => nodes(10, &["a"]),
        1 => Answer::Nothing,
        _ if request.contains("watch=") => Answer::Watch(vec![set("b")]),
        _ => nodes(20, &["c"]),
    });
    assert_eq!(told_until(&mut told, "set b").await, "listed a, failed, reached, set b");
}

#[tokio::test]
async fn a_history_that_ends_before_ours_is_listed_at_once() {
    let mut told = follow(PACE, |number, _| match number {
        0 => nodes(10, &["a"]),
        1 => Answer::Nothing,
        _ => nodes(9, &["c"]),
    });
    assert_eq!(told_until(&mut told, "listed c").await, "listed a, failed, listed c");
}
