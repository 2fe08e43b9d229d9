//! The history of a session.

use super::*;
use crate::report::Transition;
use crate::wire::{Notification, cease, code};

const SECOND: Duration = Duration::from_secs(1);

fn history(bench: &Bench) -> Vec<Transition> {
    bench.session.history().transitions(bench.now)
}

#[test]
fn each_transition_has_its_reason() {
    let (mut bench, conn) = Bench::up(settings(), open());
    bench.wait(5 * SECOND);
    bench.receive(conn, &Message::Notification(Notification::new(code::CEASE, cease::RESET)));
    let seen = history(&bench);
    let short: Vec<_> = seen.iter().map(|t| (t.from, t.to, t.reason.to_string(), t.ago, t.times)).collect();
    let short: Vec<_> =
        short.iter().map(|(from, to, reason, ago, times)| (*from, *to, &reason[..], *ago, *times)).collect();
    use SessionState::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
    assert_eq!(
        short,
        [
            (Idle, Connect, "connecting to 10.0.0.9 port 179", 5 * SECOND, 1),
            (Connect, OpenSent, "connected, OPEN sent: waiting for the peer's", 5 * SECOND, 1),
            (OpenSent, OpenConfirm, "OPENs exchanged: waiting for the peer's KEEPALIVE", 5 * SECOND, 1),
            (OpenConfirm, Established, "established", 5 * SECOND, 1),
            (Established, Active, "the peer sent: Cease / Administrative Reset", Duration::ZERO, 1),
        ]
    );
    let errors = bench.session.history().errors(bench.now);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].error.to_string(), "the peer sent: Cease / Administrative Reset");
}

/// A peer that is away for days does not displace older entries.
#[test]
fn repeated_transitions_are_counted() {
    let (mut bench, conn) = Bench::up(settings(), open());
    bench.call(|session, ctx| session.closed(ctx, conn, "connection reset"));
    for _ in 0..1000 {
        bench.wait_next();
        let conn = bench.attempt();
        bench.call(|session, ctx| session.connect_failed(ctx, conn, "connection refused"));
    }
    let seen = history(&bench);
    let last = seen.last().expect("recorded");
    assert_eq!(last.reason.to_string(), "connecting to 10.0.0.9 port 179: connection refused");
    assert_eq!((last.times, last.ago), (1000, Duration::ZERO));
    assert!(
        seen.iter()
            .any(|t| t.from == SessionState::Established && t.reason.to_string() == "connection reset")
    );
    let errors = bench.session.history().errors(bench.now);
    let errors: Vec<_> = errors.iter().map(|e| (e.error.to_string(), e.times)).collect();
    assert_eq!(
        errors,
        [
            ("connection reset".into(), 1),
            ("connecting to 10.0.0.9 port 179: connection refused".into(), 1000)
        ]
    );
}

#[test]
fn the_history_is_bounded() {
    let mut bench = Bench::new(settings());
    for n in 0..1000 {
        let conn = bench.attempt();
        let error = format!("error {n} {}", "ü".repeat(5000));
        bench.call(|session, ctx| session.connect_failed(ctx, conn, &error));
        bench.wait_next();
    }
    let seen = history(&bench);
    assert_eq!(seen.len(), 16);
    assert!(seen.iter().all(|t| t.reason.to_string().len() <= 200));
    let errors = bench.session.history().errors(bench.now);
    assert_eq!(errors.len(), 8);
    assert!(
        errors.iter().all(|e| e.error.to_string().len() <= 200)
            && errors[7].error.to_string().contains("error 999 ")
    );
}
