use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

type Numbers = Tracker<u8, u32>;

fn pending(tracker: &Numbers, phase: Phase) -> Vec<u8> {
    tracker.pending(phase, None).map(|(key, _)| *key).collect()
}

/// Reads a kernel with these objects.
fn read(tracker: &mut Numbers, kernel: &BTreeMap<u8, u32>) {
    tracker.begin_read();
    kernel.iter().for_each(|(key, value)| tracker.observe(*key, Held::Value(*value)));
    tracker.end_read();
}

fn error() -> KernelError {
    KernelError::from_cause("x", Cause::NoAnswer)
}

fn report(tracker: &Numbers, may_delete: bool) -> PlaneReport {
    tracker.report(may_delete, Problems::default(), |key, _| format!("change {key}"), |_, _| None)
}

#[test]
fn the_difference_is_pending() {
    let mut tracker = Numbers::default();
    let now = Instant::now();
    for (key, value) in [(1, 10), (2, 20), (3, 30)] {
        tracker.set(key, Some(value));
    }
    assert!(
        tracker.needs_read(now) && pending(&tracker, Phase::Add).is_empty(),
        "unknown before it was read"
    );
    read(&mut tracker, &[(2, 20), (3, 33), (4, 40)].into());
    assert!(!tracker.needs_read(now));
    assert_eq!(pending(&tracker, Phase::Add), [1, 3]);
    assert_eq!(pending(&tracker, Phase::Remove), [4]);
    assert_eq!((tracker.desired_count(), tracker.actual_count()), (3, 3));
    let exists: Vec<bool> = tracker.pending(Phase::Add, None).map(|(_, change)| change.exists).collect();
    assert_eq!(exists, [false, true]);
    assert_eq!(tracker.pending(Phase::Add, Some(&1)).count(), 1);
    assert_eq!(report(&tracker, false).kept, 1);
    assert!(!report(&tracker, false).in_sync);
    [1, 3].iter().for_each(|key| tracker.confirm(key));
    assert!(report(&tracker, false).in_sync && !report(&tracker, true).in_sync);
    tracker.confirm(&4);
    let end = report(&tracker, true);
    assert!(end.in_sync && end.changes == 3 && end.actual == 3, "{end:?}");
    assert!(tracker.get(&4).is_none(), "forgotten");
    assert!(tracker.is_installed(&1) && !tracker.is_installed(&4));
    tracker.observe(1, Held::Altered);
    assert_eq!((pending(&tracker, Phase::Add), tracker.actual_count()), (vec![1], 3));
}

#[test]
fn a_failed_object_is_read_again_before_its_retry_and_the_others_are_not() {
    let mut tracker = Numbers::default();
    let now = Instant::now();
    read(&mut tracker, &BTreeMap::new());
    tracker.set(1, Some(10));
    tracker.set(2, Some(20));
    tracker.confirm(&1);
    tracker.fail(&2, error(), now);
    assert!(pending(&tracker, Phase::Add).is_empty());
    let failed = report(&tracker, true);
    assert_eq!((failed.problems[0].what.as_str(), failed.failures), ("change 2", 1));
    let due = tracker.next_retry().unwrap();
    tracker.wake(due - Duration::from_millis(1));
    assert_eq!(tracker.unread().count(), 0);
    tracker.wake(due);
    assert_eq!(tracker.unread().copied().collect::<Vec<_>>(), [2]);
    tracker.observe(2, Held::Absent);
    assert_eq!(pending(&tracker, Phase::Add), [2]);
    assert_eq!(tracker.next_retry(), None, "the retry is due, and waits for nothing");
    tracker.fail(&2, error(), due);
    assert_eq!(tracker.next_retry(), Some(due + Duration::from_millis(200)));
    // The change had its effect although the answer was lost.
    tracker.observe(2, Held::Value(20));
    assert!(report(&tracker, true).in_sync);
    assert_eq!(tracker.next_retry(), None);
}

#[test]
fn retries_can_be_made_due_at_once() {
    let mut tracker = Numbers::default();
    read(&mut tracker, &BTreeMap::new());
    tracker.set(1, Some(10));
    tracker.fail(&1, error(), Instant::now());
    tracker.retry_all();
    assert_eq!(tracker.unread().count(), 1);
}

#[test]
fn waiting_changes_are_problems_without_a_retry_time() {
    let mut tracker = Numbers::default();
    let now = Instant::now();
    read(&mut tracker, &BTreeMap::new());
    (0..10).for_each(|key| tracker.set(key, Some(1)));
    tracker.fail(&0, error(), now);
    let due = tracker.next_retry().unwrap();
    tracker.wake(due);
    tracker.observe(0, Held::Absent);
    let waits = |key: &u8, _: Change<'_, u32>| (*key < 5).then(|| "the other exists".to_owned());
    let report = tracker.report(true, Problems::default(), |key, _| format!("add {key}"), waits);
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(report.problems[0].what, "add 0 (and 4 more)");
    assert_eq!(report.problems[0].error, "waits until the other exists");
    assert_eq!(tracker.next_retry(), None);
}

#[test]
fn a_failed_reading_is_repeated_after_a_pause() {
    let mut tracker = Numbers::default();
    let now = Instant::now();
    tracker.fail_read(error(), now);
    let due = tracker.next_retry().unwrap();
    assert!(!tracker.needs_read(now) && tracker.needs_read(due));
    assert_eq!(report(&tracker, true).problems.len(), 1);
    read(&mut tracker, &BTreeMap::new());
    assert!(report(&tracker, true).in_sync);
}

#[test]
fn a_hundred_thousand_objects_are_small() {
    assert!(std::mem::size_of::<(ipnetwork::IpNetwork, Slot<std::sync::Arc<u8>>)>() <= 48);
}

proptest! {
    /// For any sequence of desired values, failures and changes by others, the pending changes lead to the desired state.
    #[test]
    fn pending_changes_lead_to_the_desired_state(
        steps in proptest::collection::vec((0..6u8, proptest::option::of(0..3u32), 0..6u8), 1..40),
    ) {
        let mut tracker = Numbers::default();
        let mut kernel = BTreeMap::new();
        let mut desired = BTreeMap::new();
        let mut now = Instant::now();
        for (key, value, action) in steps {
            match action {
                // Another program.
                0 => {
                    kernel.insert(key, 7);
                    tracker.forget_one(key);
                }
                1 => {
                    kernel.remove(&key);
                    tracker.forget();
                }
                _ => {
                    tracker.set(key, value);
                    match value {
                        Some(value) => desired.insert(key, value),
                        None => desired.remove(&key),
                    };
                }
            }
            step(&mut tracker, &mut kernel, now, action);
            now += Duration::from_millis(70);
        }
        for _ in 0..20 {
            step(&mut tracker, &mut kernel, now, 9);
            now += Duration::from_secs(10);
        }
        prop_assert_eq!(&kernel, &desired);
        let report = report(&tracker, true);
        prop_assert!(report.in_sync, "{:?}", report);
        prop_assert_eq!(report.actual, desired.len());
        prop_assert_eq!(report.desired, desired.len());
        prop_assert_eq!(tracker.slots.len(), desired.len());
        prop_assert!(tracker.retries.is_empty());
    }
}

/// Reads what is unknown, and makes the pending changes; `action` decides which fail.
fn step(tracker: &mut Numbers, kernel: &mut BTreeMap<u8, u32>, now: Instant, action: u8) {
    if tracker.needs_read(now) {
        read(tracker, kernel);
    }
    tracker.wake(now);
    for key in tracker.unread().copied().collect::<Vec<_>>() {
        tracker.observe(key, kernel.get(&key).map_or(Held::Absent, |value| Held::Value(*value)));
    }
    for phase in [Phase::Add, Phase::Remove] {
        for (key, desired) in tracker
            .pending(phase, None)
            .map(|(key, change)| (*key, change.desired.copied()))
            .collect::<Vec<_>>()
        {
            let rejected = action == 3 && key % 2 == 0;
            if !rejected {
                match desired {
                    Some(value) => kernel.insert(key, value),
                    None => kernel.remove(&key),
                };
            }
            if rejected || action == 4 {
                tracker.fail(&key, error(), now);
            } else {
                tracker.confirm(&key);
            }
        }
    }
}
