//! Enhanced route refresh by the peer (RFC 7313 §4), and graceful restart at the same time.

use super::graceful::{close, comes_back, dropped, end_of_rib};
use super::*;
use crate::wire::Refresh;

const SECOND: Duration = Duration::from_secs(1);
const V4: Family = Family::Ipv4Unicast;
const V6: Family = Family::Ipv6Unicast;

/// Established with enhanced route refresh, after End-of-RIB of all families.
fn refreshing(open: Open) -> (Bench, ConnId) {
    let (mut bench, conn) = Bench::up(settings(), with(open, Capability::EnhancedRouteRefresh));
    end_of_rib(&mut bench, conn, V4);
    end_of_rib(&mut bench, conn, V6);
    bench.take();
    (bench, conn)
}

fn mark(bench: &mut Bench, conn: ConnId, refresh: Refresh) {
    bench.receive(conn, &Message::RouteRefresh(Some(V4), refresh));
}

/// Paths that a refresh has not repeated are kept like the others when the peer restarts, until its End-of-RIB.
#[test]
fn a_restart_during_a_refresh_loses_no_route() {
    let (mut bench, conn) = refreshing(open_restart(40, true));
    mark(&mut bench, conn, Refresh::Begin);
    assert_eq!(bench.take(), [Output::MarkStale(V4)]);
    close(&mut bench, conn);
    let outputs = bench.take();
    assert_eq!((down(&outputs), dropped(&outputs)), (Some(FAMILIES.into()), vec![]));
    let conn = comes_back(&mut bench, with(open_restart(40, true), Capability::EnhancedRouteRefresh));
    // No BoRR or EoRR has an effect before End-of-RIB (RFC 7313 §4).
    mark(&mut bench, conn, Refresh::Begin);
    mark(&mut bench, conn, Refresh::End);
    let outputs = bench.take();
    assert!(!outputs.contains(&Output::MarkStale(V4)) && dropped(&outputs).is_empty(), "{outputs:?}");
    end_of_rib(&mut bench, conn, V4);
    assert_eq!(dropped(&bench.take()), [Some(V4)]);
}

/// A refresh and a restart have each an end and a time limit of their own.
#[test]
fn an_end_of_rib_does_not_end_a_refresh() {
    let (mut bench, conn) = refreshing(Open { hold_time: 0, ..open_restart(40, true) });
    mark(&mut bench, conn, Refresh::Begin);
    end_of_rib(&mut bench, conn, V4);
    assert_eq!(dropped(&bench.take()), []);
    mark(&mut bench, conn, Refresh::End);
    assert_eq!(dropped(&bench.take()), [Some(V4)]);
    mark(&mut bench, conn, Refresh::End);
    assert_eq!(dropped(&bench.take()), [], "nothing has begun");
    mark(&mut bench, conn, Refresh::Begin);
    bench.wait(360 * SECOND);
    assert_eq!(dropped(&bench.take()), [Some(V4)], "not for ever, and no other family");
}
