use serde_json::json;

use super::*;
use crate::api::ObjectKind;

const LIMITS: RateLimits = RateLimits {
    min_interval: Duration::from_secs(1),
    max_interval: Duration::from_secs(60),
    counter_interval: Duration::from_secs(40),
    burst: 1000,
    writes_per_second: 1.0,
};

const ALL: Permitted = Permitted { create: true, delete: true };

fn key(name: &str) -> ObjectRef {
    ObjectRef { kind: ObjectKind::BGPSession, name: name.into() }
}

fn object(name: &str, signal: &str, counter: u32) -> Object {
    Object {
        key: key(name),
        spec: json!({}),
        status: json!({"counter": counter, "state": signal}),
        signal: signal.into(),
    }
}

fn failure(retry_after: Option<Duration>) -> ApiError {
    ApiError { retry_after, ..ApiError::timeout("write it", Duration::ZERO) }
}

/// Formats writes in short: `+` for a whole object, `~` for the status alone, `-` for a deletion.
fn short(writes: &[Write]) -> String {
    let one = |write: &Write| match write {
        Write::Apply { object, whole } => format!("{}{}", if *whole { '+' } else { '~' }, object.key.name),
        Write::Delete(key) => format!("-{}", key.name),
    };
    writes.iter().map(one).collect::<Vec<_>>().join(" ")
}

struct Case {
    planner: Planner,
    start: Instant,
}

impl Case {
    fn new(limits: RateLimits) -> Self {
        let start = Instant::now();
        Self { planner: Planner::new(limits, start), start }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    /// Plans writes and lets them succeed.
    fn step(&mut self, seconds: f64, desired: &[Object]) -> String {
        let now = self.at(seconds);
        let writes = self.planner.plan(desired, ALL, now);
        let planned = short(&writes);
        writes.into_iter().for_each(|write| self.planner.done(write, "1", now));
        planned
    }
}

#[test]
fn signals_are_written_at_once_and_counters_later() {
    let mut case = Case::new(LIMITS);
    let spec = Object { spec: json!({"asn": 2}), ..object("a", "up", 8) };
    let steps = [
        (0.0, vec![object("a", "down", 0), object("b", "up", 1)], "+a +b"),
        (0.1, vec![object("a", "down", 0), object("b", "up", 1)], ""),
        // A second change within the second waits for its end.
        (0.5, vec![object("a", "up", 0), object("b", "up", 1)], ""),
        (1.0, vec![object("a", "up", 0), object("b", "up", 1)], "~a"),
        // Counters wait for 30 to 50 s.
        (3.0, vec![object("a", "up", 7), object("b", "up", 2)], ""),
        (29.0, vec![object("a", "up", 7), object("b", "up", 2)], ""),
        (52.0, vec![object("a", "up", 8), object("b", "up", 3)], "~a ~b"),
        (53.0, vec![object("a", "up", 8)], "-b"),
        (53.5, vec![spec.clone()], "+a"),
        (54.0, vec![spec], ""),
    ];
    for (seconds, desired, expected) in steps {
        // A change of the spec is no faster than one of the signal.
        let seconds = if expected == "+a" { seconds + 0.1 } else { seconds };
        assert_eq!(case.step(seconds, &desired), expected, "after {seconds} s");
    }
    assert_eq!(case.planner.next(), None);
}

#[test]
fn the_next_write_has_a_time() {
    let mut case = Case::new(LIMITS);
    case.step(0.0, &[object("a", "down", 0)]);
    case.step(0.2, &[object("a", "up", 0)]);
    assert_eq!(case.planner.next(), Some(case.at(1.0)));
    assert_eq!(case.step(1.0, &[object("a", "up", 0)]), "~a");
    case.step(2.0, &[object("a", "up", 1)]);
    let wait = case.planner.next().unwrap() - case.at(1.0);
    assert!((Duration::from_secs(30)..=Duration::from_secs(50)).contains(&wait), "{wait:?}");
}

#[test]
fn flapping_objects_are_written_at_growing_intervals_until_they_are_quiet() {
    let mut case = Case::new(LIMITS);
    let mut writes = 0;
    for tick in 0..6000 {
        let signal = if tick % 2 == 0 { "up" } else { "down" };
        writes += usize::from(!case.step(f64::from(tick) * 0.1, &[object("a", signal, 0)]).is_empty());
    }
    // 600 s: some at once, then one per minute.
    assert!((10..30).contains(&writes), "{writes}");
    case.step(700.0, &[object("a", "down", 0)]);
    assert_eq!(case.step(800.0, &[object("a", "up", 0)]), "~a");
    assert_eq!(case.step(801.0, &[object("a", "down", 0)]), "~a");
}

#[test]
fn all_objects_share_the_rate_limit() {
    let mut case = Case::new(RateLimits { burst: 10, writes_per_second: 2.0, ..LIMITS });
    let desired: Vec<_> = (0..30).map(|number| object(&format!("{number:02}"), "up", 0)).collect();
    let mut seconds = 0.0;
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < 30 {
        counts.push(case.step(seconds, &desired).split_whitespace().count());
        seconds = case.planner.next().map_or(seconds, |next| (next - case.start).as_secs_f64());
    }
    assert_eq!(counts[0], 10);
    assert!((9.0..11.5).contains(&seconds), "{seconds}");
}

#[test]
fn failed_writes_are_retried_with_growing_pauses_and_do_not_block_others() {
    let mut case = Case::new(LIMITS);
    let desired = [object("a", "up", 0), object("b", "up", 0)];
    let mut pauses = Vec::new();
    let mut now = case.at(0.0);
    for round in 0..10 {
        let writes = case.planner.plan(&desired, ALL, now);
        assert_eq!(short(&writes), if round == 0 { "+a +b" } else { "+a" });
        for write in writes {
            match write.key().name.as_str() {
                "a" => case.planner.failed(write.key(), failure(None), now),
                _ => case.planner.done(write, "1", now),
            }
        }
        assert_eq!(case.planner.plan(&desired, ALL, now), []);
        assert!(case.planner.error().is_some_and(|error| error.contains("write it")));
        let next = case.planner.next().unwrap();
        pauses.push(next - now);
        now = next;
    }
    assert_eq!(pauses[..3], [0.5, 1.0, 2.0].map(Duration::from_secs_f64));
    assert_eq!(pauses[9], Duration::from_secs(60));
    case.planner.failed(&key("a"), failure(Some(Duration::from_secs(90))), now);
    case.planner.plan(&desired, ALL, now);
    assert_eq!(case.planner.next(), Some(now + Duration::from_secs(90)));
    // It is no longer desired, and is deleted: there is no error.
    let now = now + Duration::from_secs(90);
    let writes = case.planner.plan(&desired[1..], ALL, now);
    assert_eq!(short(&writes), "-a");
    writes.into_iter().for_each(|write| case.planner.done(write, "1", now));
    assert_eq!(case.planner.error(), None);
}

#[test]
fn errors_are_dropped_when_the_object_is_as_it_was_written() {
    let mut case = Case::new(LIMITS);
    let before = [object("a", "up", 0)];
    let [start, later, end] = [0.0, 100.0, 101.0].map(|seconds| case.at(seconds));
    let first = case.planner.plan(&before, ALL, start).remove(0);
    case.planner.done(first, "1", start);
    let failed = case.planner.plan(&[object("a", "down", 0)], ALL, later).remove(0);
    case.planner.failed(failed.key(), failure(None), later);
    assert!(case.planner.error().is_some());
    assert_eq!(case.planner.plan(&before, ALL, end), []);
    assert_eq!(case.planner.error(), None);
}

#[test]
fn objects_found_in_the_api_server_are_taken_over() {
    let mut case = Case::new(LIMITS);
    let found = |names: &[(&str, &str)]| {
        let found = |version: &str| Found { version: version.into(), owned: true };
        names.iter().map(|(name, version)| (key(name), found(version))).collect::<BTreeMap<_, _>>()
    };
    case.planner.adopt(&found(&[("a", "7"), ("old", "8")]));
    let desired = [object("a", "up", 0), object("b", "up", 0)];
    // Nothing is deleted before the desired objects are complete.
    assert_eq!(short(&case.planner.plan(&desired, Permitted { delete: false, ..ALL }, case.start)), "+a +b");
    assert_eq!(case.step(0.0, &desired), "-old +a +b");
    // Another client deleted one.
    case.planner.adopt(&found(&[("a", "1")]));
    assert_eq!(case.step(5.0, &desired), "+b");
    // Another client changed one.
    case.planner.adopt(&found(&[("a", "1"), ("b", "9")]));
    assert_eq!(case.step(6.0, &desired), "+b");
    case.planner.not_found(&key("a"));
    assert_eq!(case.step(6.1, &desired), "+a");
}

#[test]
fn objects_need_a_node_as_owner_and_those_of_another_node_are_taken_over() {
    let mut case = Case::new(LIMITS);
    let no_owner = Permitted { create: false, ..ALL };
    let desired = [object("a", "up", 0), object("b", "up", 0)];
    assert_eq!(case.planner.plan(&desired, no_owner, case.start), []);
    assert_eq!(case.step(0.0, &desired), "+a +b");
    let found = |owned| BTreeMap::from([(key("a"), Found { version: "1".into(), owned })]);
    // The Node is deleted, and one object with it already; the other one is still updated.
    case.planner.adopt(&found(true));
    let later = [object("a", "down", 0), object("b", "down", 0)];
    assert_eq!(short(&case.planner.plan(&later, no_owner, case.at(5.0))), "~a");
    // There is another Node of this name: the object would be deleted with the old one.
    case.planner.adopt(&found(false));
    assert_eq!(case.planner.plan(&desired, no_owner, case.at(10.0)), []);
    assert_eq!(case.step(10.0, &desired), "+a +b");
}
