use serde_json::json;

use super::super::object::Kind;
use super::*;

const PACE: Pace = Pace {
    signals: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    figures: Duration::from_secs(40),
    burst: 1000,
    a_second: 1.0,
};

const ANY: May = May { make: true, remove: true };

fn key(name: &str) -> Key {
    Key { kind: Kind::Session, name: name.into() }
}

fn object(name: &str, signal: &str, figure: u32) -> Object {
    Object {
        key: key(name),
        spec: json!({}),
        status: json!({"figure": figure, "state": signal}),
        signal: signal.into(),
    }
}

fn failure(wait: Option<Duration>) -> Failure {
    Failure { wait, ..Failure::silent("write it", Duration::ZERO) }
}

/// In short: `+` for the whole, `~` for the status alone, `-` for gone.
fn words(writes: &[Write]) -> String {
    let word = |write: &Write| match write {
        Write::Apply { object, whole } => format!("{}{}", if *whole { '+' } else { '~' }, object.key.name),
        Write::Delete(key) => format!("-{}", key.name),
    };
    writes.iter().map(word).collect::<Vec<_>>().join(" ")
}

struct Case {
    planner: Planner,
    start: Instant,
}

impl Case {
    fn new(pace: Pace) -> Self {
        let start = Instant::now();
        Self { planner: Planner::new(pace, start), start }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    /// Plans, and does it.
    fn step(&mut self, seconds: f64, wanted: &[Object]) -> String {
        let now = self.at(seconds);
        let writes = self.planner.plan(wanted, ANY, now);
        let told = words(&writes);
        writes.into_iter().for_each(|write| self.planner.done(write, "1", now));
        told
    }
}

#[test]
fn signals_go_at_once_and_figures_later() {
    let mut case = Case::new(PACE);
    let spec = Object { spec: json!({"asn": 2}), ..object("a", "up", 8) };
    let steps = [
        (0.0, vec![object("a", "down", 0), object("b", "up", 1)], "+a +b"),
        (0.1, vec![object("a", "down", 0), object("b", "up", 1)], ""),
        // A second change within the second waits for its end.
        (0.5, vec![object("a", "up", 0), object("b", "up", 1)], ""),
        (1.0, vec![object("a", "up", 0), object("b", "up", 1)], "~a"),
        // Figures wait for 30 to 50 s.
        (3.0, vec![object("a", "up", 7), object("b", "up", 2)], ""),
        (29.0, vec![object("a", "up", 7), object("b", "up", 2)], ""),
        (52.0, vec![object("a", "up", 8), object("b", "up", 3)], "~a ~b"),
        (53.0, vec![object("a", "up", 8)], "-b"),
        (53.5, vec![spec.clone()], "+a"),
        (54.0, vec![spec], ""),
    ];
    for (seconds, wanted, expected) in steps {
        // A change of what it is about is no faster than a signal.
        let seconds = if expected == "+a" { seconds + 0.1 } else { seconds };
        assert_eq!(case.step(seconds, &wanted), expected, "after {seconds} s");
    }
    assert_eq!(case.planner.next(), None);
}

#[test]
fn it_says_when_to_plan_again() {
    let mut case = Case::new(PACE);
    case.step(0.0, &[object("a", "down", 0)]);
    case.step(0.2, &[object("a", "up", 0)]);
    assert_eq!(case.planner.next(), Some(case.at(1.0)));
    assert_eq!(case.step(1.0, &[object("a", "up", 0)]), "~a");
    case.step(2.0, &[object("a", "up", 1)]);
    let wait = case.planner.next().unwrap() - case.at(1.0);
    assert!((Duration::from_secs(30)..=Duration::from_secs(50)).contains(&wait), "{wait:?}");
}

#[test]
fn flapping_is_told_ever_more_rarely_and_quiet_is_forgiven() {
    let mut case = Case::new(PACE);
    let mut writes = 0;
    for tick in 0..6000 {
        let signal = if tick % 2 == 0 { "up" } else { "down" };
        writes += usize::from(!case.step(f64::from(tick) * 0.1, &[object("a", signal, 0)]).is_empty());
    }
    // 600 s: some at once, then one a minute.
    assert!((10..30).contains(&writes), "{writes}");
    case.step(700.0, &[object("a", "down", 0)]);
    assert_eq!(case.step(800.0, &[object("a", "up", 0)]), "~a");
    assert_eq!(case.step(801.0, &[object("a", "down", 0)]), "~a");
}

#[test]
fn many_objects_share_what_may_be_written() {
    let mut case = Case::new(Pace { burst: 10, a_second: 2.0, ..PACE });
    let wanted: Vec<_> = (0..30).map(|number| object(&format!("{number:02}"), "up", 0)).collect();
    let mut seconds = 0.0;
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < 30 {
        counts.push(case.step(seconds, &wanted).split_whitespace().count());
        seconds = case.planner.next().map_or(seconds, |next| (next - case.start).as_secs_f64());
    }
    assert_eq!(counts[0], 10);
    assert!((9.0..11.5).contains(&seconds), "{seconds}");
}

#[test]
fn what_failed_is_tried_again_with_growing_pauses_without_holding_up_the_rest() {
    let mut case = Case::new(PACE);
    let wanted = [object("a", "up", 0), object("b", "up", 0)];
    let mut pauses = Vec::new();
    let mut now = case.at(0.0);
    for round in 0..10 {
        let writes = case.planner.plan(&wanted, ANY, now);
        assert_eq!(words(&writes), if round == 0 { "+a +b" } else { "+a" });
        for write in writes {
            match write.key().name.as_str() {
                "a" => case.planner.failed(write.key(), failure(None), now),
                _ => case.planner.done(write, "1", now),
            }
        }
        assert_eq!(case.planner.plan(&wanted, ANY, now), []);
        assert!(case.planner.trouble().is_some_and(|words| words.contains("write it")));
        let next = case.planner.next().unwrap();
        pauses.push(next - now);
        now = next;
    }
    assert_eq!(pauses[..3], [0.5, 1.0, 2.0].map(Duration::from_secs_f64));
    assert_eq!(pauses[9], Duration::from_secs(60));
    case.planner.failed(&key("a"), failure(Some(Duration::from_secs(90))), now);
    case.planner.plan(&wanted, ANY, now);
    assert_eq!(case.planner.next(), Some(now + Duration::from_secs(90)));
    // Nobody wants it any more, and it isn't there: nothing is the matter.
    let now = now + Duration::from_secs(90);
    let writes = case.planner.plan(&wanted[1..], ANY, now);
    assert_eq!(words(&writes), "-a");
    writes.into_iter().for_each(|write| case.planner.done(write, "1", now));
    assert_eq!(case.planner.trouble(), None);
}

#[test]
fn what_failed_is_forgotten_when_all_is_again_as_it_was_written() {
    let mut case = Case::new(PACE);
    let before = [object("a", "up", 0)];
    let [start, later, end] = [0.0, 100.0, 101.0].map(|seconds| case.at(seconds));
    let first = case.planner.plan(&before, ANY, start).remove(0);
    case.planner.done(first, "1", start);
    let refused = case.planner.plan(&[object("a", "down", 0)], ANY, later).remove(0);
    case.planner.failed(refused.key(), failure(None), later);
    assert!(case.planner.trouble().is_some());
    assert_eq!(case.planner.plan(&before, ANY, end), []);
    assert_eq!(case.planner.trouble(), None);
}

#[test]
fn what_is_found_in_the_api_server_is_taken_over() {
    let mut case = Case::new(PACE);
    let found = |names: &[(&str, &str)]| {
        let found = |version: &str| Found { version: version.into(), owned: true };
        names.iter().map(|(name, version)| (key(name), found(version))).collect::<BTreeMap<_, _>>()
    };
    case.planner.adopt(&found(&[("a", "7"), ("old", "8")]));
    let wanted = [object("a", "up", 0), object("b", "up", 0)];
    // Nothing goes before everything is known.
    assert_eq!(words(&case.planner.plan(&wanted, May { remove: false, ..ANY }, case.start)), "+a +b");
    assert_eq!(case.step(0.0, &wanted), "-old +a +b");
    // Somebody removed one.
    case.planner.adopt(&found(&[("a", "1")]));
    assert_eq!(case.step(5.0, &wanted), "+b");
    // Somebody changed one.
    case.planner.adopt(&found(&[("a", "1"), ("b", "9")]));
    assert_eq!(case.step(6.0, &wanted), "+b");
    case.planner.missing(&key("a"));
    assert_eq!(case.step(6.1, &wanted), "+a");
}

#[test]
fn what_belongs_to_no_node_is_not_made_and_what_belongs_to_another_is_taken_over() {
    let mut case = Case::new(PACE);
    let nobody = May { make: false, ..ANY };
    let wanted = [object("a", "up", 0), object("b", "up", 0)];
    assert_eq!(case.planner.plan(&wanted, nobody, case.start), []);
    assert_eq!(case.step(0.0, &wanted), "+a +b");
    let found = |owned| BTreeMap::from([(key("a"), Found { version: "1".into(), owned })]);
    // The Node is gone, and one object with it already; what is still there is told of while it is.
    case.planner.adopt(&found(true));
    let later = [object("a", "down", 0), object("b", "down", 0)];
    assert_eq!(words(&case.planner.plan(&later, nobody, case.at(5.0))), "~a");
    // Another Node of this name: as we wrote it or not, this would go with the old one.
    case.planner.adopt(&found(false));
    assert_eq!(case.planner.plan(&wanted, nobody, case.at(10.0)), []);
    assert_eq!(case.step(10.0, &wanted), "+a +b");
}
