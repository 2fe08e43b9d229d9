//! Long-lived graceful restart as the receiving speaker (RFC 9494 §4.2).

use super::graceful::{close, comes_back, dropped, end_of_rib};
use super::*;
use crate::wire::{LongLived, Notification, cease, code};

const SECOND: Duration = Duration::from_secs(1);
const V4: Family = Family::Ipv4Unicast;
const V6: Family = Family::Ipv6Unicast;

/// Our settings with the capability and a stale time of one hour.
fn offering() -> Settings {
    let long_lived = Some(3600 * SECOND);
    let restart = GracefulRestart { long_lived, ..GracefulRestart::default() };
    Settings { graceful_restart: Some(restart), ..settings() }
}

/// The peer's OPEN with a restart time, and a long-lived stale time for each family.
fn open_long(restart_time: u16, times: &[(Family, u32)]) -> Open {
    let family = |(family, stale_time): &(Family, u32)| LongLived {
        family: *family,
        forwarding: true,
        stale_time: *stale_time,
    };
    with(open_restart(restart_time, true), Capability::LongLived(times.iter().map(family).collect()))
}

fn both(seconds: u32) -> [(Family, u32); 2] {
    [(V4, seconds), (V6, seconds)]
}

fn aged(outputs: &[Output]) -> Vec<Family> {
    let aged = outputs.iter().filter_map(|output| match output {
        Output::LongLived(family) => Some(*family),
        _ => None,
    });
    aged.collect()
}

/// Establishes a session with a peer that sends `open`, and closes the connection.
fn broken(open: Open) -> Bench {
    let (mut bench, conn) = Bench::up(offering(), open);
    close(&mut bench, conn);
    bench
}

#[test]
fn our_open_offers_it_if_configured() {
    let sent = |settings| {
        let mut bench = Bench::new(settings);
        let conn = bench.attempt();
        bench.connected(conn);
        match &bench.sent(conn)[..] {
            [Message::Open(open)] => open.long_lived().map(<[LongLived]>::to_vec),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sent(settings()), None);
    let family = |family| LongLived { family, forwarding: true, stale_time: 3600 };
    assert_eq!(sent(offering()), Some(vec![family(V4), family(V6)]));
}

#[test]
fn after_the_restart_time_comes_the_long_lived_stale_time_of_each_family() {
    let mut bench = broken(open_long(40, &[(V4, 100), (V6, 60)]));
    assert_eq!(down(&bench.take()), Some(FAMILIES.into()));
    bench.wait(39 * SECOND);
    assert_eq!((aged(&bench.outputs), dropped(&bench.outputs)), (vec![], vec![]));
    bench.wait(SECOND);
    assert_eq!((aged(&bench.outputs), dropped(&bench.outputs)), (FAMILIES.to_vec(), vec![]));
    bench.take();
    bench.wait(59 * SECOND);
    assert_eq!(dropped(&bench.take()), []);
    bench.wait(SECOND);
    assert_eq!(dropped(&bench.take()), [Some(V6)]);
    bench.wait(40 * SECOND);
    assert_eq!((aged(&bench.outputs), dropped(&bench.outputs)), (vec![], vec![Some(V4)]));
}

/// RFC 9494 §4.1: a restart time of 0 skips the conventional phase, as does a family that RFC 4724's capability does not
/// list.
#[test]
fn without_a_restart_time_the_long_lived_stale_time_starts_at_once() {
    let mut only_v6 = open_long(40, &both(100));
    for capability in &mut only_v6.capabilities {
        if let Capability::GracefulRestart(restart) = capability {
            restart.families = vec![(V6, true)];
        }
    }
    for (open, at_once) in [(open_long(0, &both(100)), FAMILIES.to_vec()), (only_v6, vec![V4])] {
        let mut bench = broken(open);
        assert_eq!(down(&bench.outputs), Some(FAMILIES.into()));
        assert_eq!(aged(&bench.take()), at_once);
        bench.wait(99 * SECOND);
        assert_eq!(dropped(&bench.take()), []);
    }
}

/// RFC 9494 §4.2: the paths of a family that is not listed, or has a stale time of 0, are removed after the restart time;
/// §4.5: so are all without the capability of RFC 4724.
#[test]
fn both_sides_must_offer_it() {
    let (mut bench, conn) = Bench::up(settings(), open_long(40, &both(100)));
    close(&mut bench, conn);
    bench.wait(40 * SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some), "we do not");
    let mut bench = broken(open_long(40, &[(V4, 0)]));
    bench.wait(40 * SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some), "no time");
    let family = LongLived { family: V4, forwarding: true, stale_time: 100 };
    let alone = with(open(), Capability::LongLived(vec![family]));
    assert_eq!(alone.long_lived(), None);
    assert_eq!(down(&broken(alone).outputs), Some(Vec::new()));
}

#[test]
fn the_end_of_rib_ends_it_for_a_peer_that_is_back() {
    let mut bench = broken(open_long(10, &both(1000)));
    bench.wait(20 * SECOND);
    bench.take();
    let conn = comes_back(&mut bench, open_long(10, &both(1000)));
    assert_eq!(dropped(&bench.take()), []);
    end_of_rib(&mut bench, conn, V4);
    assert_eq!(dropped(&bench.take()), [Some(V4)]);
    end_of_rib(&mut bench, conn, V6);
    assert_eq!(dropped(&bench.take()), [Some(V6)]);
    // The next restart starts from the beginning.
    close(&mut bench, conn);
    bench.take();
    bench.wait(10 * SECOND);
    assert_eq!(aged(&bench.take()), FAMILIES);
}

/// RFC 9494 §4.2: then its F bit, or the lack of it, applies, not that of RFC 4724.
#[test]
fn families_without_the_f_bit_are_removed_when_the_peer_is_back() {
    let mut no_bit = open_long(10, &both(1000));
    for capability in &mut no_bit.capabilities {
        if let Capability::LongLived(families) = capability {
            families[0].forwarding = false;
        }
    }
    let cases = [
        (no_bit.clone(), vec![Some(V4)]),
        (open_long(10, &[(V4, 1000)]), vec![Some(V6)]),
        (open_restart(10, true), FAMILIES.map(Some).to_vec()),
        (open(), FAMILIES.map(Some).to_vec()),
    ];
    for (open, gone) in cases {
        let mut bench = broken(open_long(10, &both(1000)));
        bench.wait(20 * SECOND);
        bench.take();
        comes_back(&mut bench, open);
        assert_eq!(dropped(&bench.take()), gone);
    }
    // Within the restart time it does not.
    let mut bench = broken(open_long(10, &both(1000)));
    bench.take();
    comes_back(&mut bench, no_bit);
    assert_eq!(dropped(&bench.take()), []);
}

/// RFC 9494 §4.2: they are kept until the long-lived stale time is over, and no restart extends it.
#[test]
fn repeated_restarts_do_not_extend_the_stale_time() {
    let again = || open_long(10, &both(100));
    let mut bench = broken(again());
    bench.wait(10 * SECOND); // the 100 s begin
    bench.take();
    for _ in 0..3 {
        let conn = comes_back(&mut bench, again());
        bench.wait(SECOND);
        bench.take();
        close(&mut bench, conn);
        let outputs = bench.take();
        assert_eq!(down(&outputs), Some(FAMILIES.into()));
        assert_eq!((dropped(&outputs), aged(&outputs)), (vec![], FAMILIES.to_vec()), "the last resort still");
        bench.wait(15 * SECOND);
        assert_eq!(aged(&bench.take()), FAMILIES, "the paths received meanwhile, after its restart time");
    }
    bench.wait(51 * SECOND);
    assert_eq!(dropped(&bench.take()), []);
    bench.wait(SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some));
}

/// A peer that restarts again before End-of-RIB: paths that RFC 4724 would remove become long-lived stale.
#[test]
fn paths_not_sent_again_before_another_restart_become_long_lived_stale() {
    let mut bench = broken(open_long(10, &[(V4, 100)]));
    bench.take();
    let conn = comes_back(&mut bench, open_long(10, &[(V4, 100)]));
    bench.wait(5 * SECOND);
    close(&mut bench, conn);
    let outputs = bench.take();
    assert_eq!((aged(&outputs), dropped(&outputs)), (vec![V4], vec![Some(V6)]));
    let at = |wanted: &Output| outputs.iter().position(|output| output == wanted);
    let down = outputs.iter().position(|output| matches!(output, Output::Down { .. }));
    assert!(at(&Output::LongLived(V4)) < down && at(&Output::DropStale(Some(V6))) < down);
    bench.wait(109 * SECOND);
    assert!(!dropped(&bench.take()).contains(&Some(V4)));
    bench.wait(SECOND);
    assert_eq!(dropped(&bench.take()), [Some(V4)]);
}

/// RFC 9494 §4.2: "any remaining routes MUST be removed immediately".
#[test]
fn a_restart_after_the_stale_time_keeps_no_route() {
    let mut bench = broken(open_long(10, &both(100)));
    bench.wait(100 * SECOND);
    bench.take();
    let conn = comes_back(&mut bench, open_long(10, &both(100)));
    end_of_rib(&mut bench, conn, V6);
    bench.take();
    bench.wait(10 * SECOND);
    assert_eq!(dropped(&bench.take()), [Some(V4)]);
    close(&mut bench, conn);
    assert_eq!(down(&bench.take()), Some(vec![V6]));
}

/// RFC 8538: nothing is kept after a hard reset; after other NOTIFICATIONs if both sides agreed.
#[test]
fn no_route_is_kept_after_a_hard_reset() {
    let mut settings = offering();
    settings.graceful_restart =
        settings.graceful_restart.map(|r| GracefulRestart { notifications: true, ..r });
    let mut open = open_long(10, &both(100));
    for capability in &mut open.capabilities {
        if let Capability::GracefulRestart(restart) = capability {
            restart.notification = true;
        }
    }
    let reset = Notification::new(code::CEASE, cease::RESET);
    for (notification, kept) in [(reset.clone(), 2), (reset.into_hard_reset(), 0)] {
        let (mut bench, conn) = Bench::up(settings.clone(), open.clone());
        bench.receive(conn, &Message::Notification(notification));
        assert_eq!(down(&bench.take()).expect("down").len(), kept);
        bench.wait(10 * SECOND);
        assert_eq!(aged(&bench.take()).len(), kept);
    }
}
