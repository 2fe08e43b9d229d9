//! The status for people: aligned columns as kubectl prints them, and text.

use std::fmt::Write;

use heliograph_bgp::bfd;

use super::{NextHopStatus, NodeStatus, PastErrorStatus, RouteStatus, SessionStatus, TransitionStatus};

/// Formats rows under a head. Each column is as wide as its widest cell.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| cell.to_string()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Formats a duration in short: `12s`, `3m04s`, `5h02m`, `3d04h`.
pub fn age(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

fn or_dash(text: Option<impl ToString>) -> String {
    text.map(|text| text.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into())
}

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.into()
}

/// Formats the output of `heliograph status`.
pub fn status(status: &NodeStatus) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Node       {} ({}), heliograph {}, up {}",
        status.node,
        status.role,
        status.version,
        age(status.uptime_seconds)
    );
    let intent = &status.intent;
    let _ = match (intent.in_sync, intent.origin.is_empty()) {
        (true, _) => {
            writeln!(out, "Intent     in sync with {}, generation {}", intent.origin, intent.generation)
        }
        (false, true) => writeln!(out, "Intent     none yet"),
        (false, false) => {
            let state = if intent.rejections.is_empty() { "NOT in sync" } else { "REJECTED" };
            writeln!(out, "Intent     {state}; in force: {}, generation {}", intent.origin, intent.generation)
        }
    };
    if let Some(store) = &status.store {
        let state = if store.connected { "connected" } else { "NOT connected" };
        let error = store.last_error.as_ref().filter(|_| !store.connected);
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        let _ = writeln!(out, "Store      {}, {state} for {}{error}", store.server, age(store.since_seconds));
    }
    if let Some(kernel) = &status.kernel {
        let state = if kernel.in_sync { "in sync" } else { "NOT in sync" };
        let _ = writeln!(out, "Kernel     {state}, {} of {} routes", kernel.routes, kernel.desired);
    }
    let up = status.sessions.iter().filter(|session| session.established()).count();
    let _ = writeln!(out, "Sessions   {up} of {} established", status.sessions.len());
    if !status.sessions.is_empty() {
        let head =
            ["PEER", "NAME", "ASN", "ROLE", "STATE", "UPTIME", "RECEIVED", "ADVERTISED", "BFD", "REASON"];
        out.push('\n');
        out.push_str(&table(&head, &status.sessions.iter().map(session).collect::<Vec<_>>()));
    }
    if !status.next_hops.is_empty() {
        out.push('\n');
        let rows: Vec<_> = status.next_hops.iter().map(next_hop).collect();
        out.push_str(&table(&["NODE", "NEXT HOP", "REACHABILITY", "REASON"], &rows));
    }
    list(&mut out, "Rejected intent", intent.rejections.iter().map(ToString::to_string));
    if let Some(kernel) = &status.kernel {
        list(&mut out, "Kernel errors", kernel.errors.iter().map(ToString::to_string));
    }
    list(&mut out, "Problems", status.problems.iter().cloned());
    out
}

fn list(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    for (index, item) in items.enumerate() {
        if index == 0 {
            let _ = writeln!(out, "\n{title}");
        }
        let _ = writeln!(out, "- {item}");
    }
}

fn session(session: &SessionStatus) -> Vec<String> {
    vec![
        session.peer.to_string(),
        session.name.clone(),
        session.asn.to_string(),
        session.role.to_string(),
        session.state.as_str().into(),
        age(session.uptime_seconds),
        session.received.to_string(),
        session.advertised.to_string(),
        or_dash(session.bfd.as_ref().map(|bfd| bfd.state.as_str())),
        reason(session),
    ]
}

/// Formats the output of `heliograph status --session`: one session with its history, the latest first.
pub fn session_in_full(one: &SessionStatus) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Session    {} ({}), AS {}, {}", one.peer, one.name, one.asn, one.role);
    let _ =
        writeln!(out, "State      {} for {}: {}", one.state.as_str(), age(one.uptime_seconds), reason(one));
    let _ = writeln!(out, "Router id  {}", or_dash(one.router_id));
    let hold = one.hold_seconds.map(|seconds| format!("{seconds}s"));
    let _ = writeln!(out, "Hold time  {}, established {} times", or_dash(hold), one.established_count);
    let _ = writeln!(
        out,
        "Routes     {} received, {} accepted, {} stale, {} advertised",
        one.received, one.accepted, one.stale, one.advertised
    );
    if let Some(bfd) = &one.bfd {
        let detection = bfd.detection_time.map(|time| format!(", detection time {time} ms"));
        let detection = detection.unwrap_or_default();
        let _ = writeln!(
            out,
            "BFD        {}{detection}, {} failures: {}",
            bfd.state.as_str(),
            bfd.failure_count,
            bfd.reason
        );
    }
    let ago = |seconds, count| vec![age(seconds), repeated(count)];
    if !one.history.is_empty() {
        let row = |t: &TransitionStatus| {
            let change = vec![t.from.as_str().into(), t.to.as_str().into(), t.reason.clone()];
            [ago(t.seconds_ago, t.count), change].concat()
        };
        let rows: Vec<_> = one.history.iter().rev().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["AGO", "COUNT", "FROM", "TO", "REASON"], &rows));
    }
    if !one.errors.is_empty() {
        let row = |e: &PastErrorStatus| [ago(e.seconds_ago, e.count), vec![e.error.clone()]].concat();
        let rows: Vec<_> = one.errors.iter().rev().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["AGO", "COUNT", "ERROR"], &rows));
    }
    out
}

fn repeated(count: u32) -> String {
    if count == 1 { String::new() } else { count.to_string() }
}

/// Returns the reason for the session's state, with the last error if that is not part of it, or with the reason why its
/// BFD session is down.
fn reason(session: &SessionStatus) -> String {
    if let Some(bfd) = session.bfd.as_ref().filter(|own| session.established() && own.state != bfd::State::Up)
    {
        return format!("{}; BFD: {}", or_dash(Some(&session.reason)), bfd.reason);
    }
    match &session.last_error {
        Some(error) if !session.established() && !session.reason.contains(error.as_str()) => {
            format!("{} (last error: {error})", session.reason)
        }
        _ => or_dash(Some(&session.reason)),
    }
}

fn next_hop(hop: &NextHopStatus) -> Vec<String> {
    vec![
        or_dash(hop.node.as_ref()),
        hop.address.to_string(),
        hop.reachability.to_string(),
        hop.reason.clone(),
    ]
}

/// Formats the output of `heliograph routes`.
pub fn routes(routes: &[RouteStatus]) -> String {
    let head = [
        "PREFIX",
        "NEXT HOP",
        "FROM",
        "BEST",
        "INSTALLED",
        "REACHABILITY",
        "LOCALPREF",
        "MED",
        "AS PATH",
        "ORIGINATOR",
        "REASON",
    ];
    let row = |route: &RouteStatus| {
        vec![
            route.prefix.to_string(),
            or_dash(route.next_hop),
            route.peer.map_or_else(|| "this node".into(), |peer| peer.to_string()),
            yes(route.best),
            yes(route.installed),
            or_dash(route.reachability),
            route.local_pref.to_string(),
            route.med.to_string(),
            or_dash(Some(&route.as_path)),
            or_dash(route.originator),
            route.reason.clone(),
        ]
    };
    table(&head, &routes.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::NeighborRole;
    use crate::status::BfdStatus;
    use heliograph_bgp::report::SessionState;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_ends() {
        let rows = vec![
            vec!["a".into(), "long cell".into(), "x".into()],
            vec!["bbb".into(), "é".into(), String::new()],
        ];
        assert_eq!(table(&["A", "B", "C"], &rows), "A     B           C\na     long cell   x\nbbb   é\n");
    }

    #[test]
    fn a_session_in_full_has_the_latest_first() {
        let transition = |seconds_ago, from, to, reason: &str, count| TransitionStatus {
            seconds_ago,
            from,
            to,
            reason: reason.into(),
            count,
        };
        let one = SessionStatus {
            peer: [192, 0, 2, 1].into(),
            name: "rr1".into(),
            asn: 64512,
            role: NeighborRole::Mesh,
            peer_generation: None,
            state: SessionState::Active,
            uptime_seconds: 3.0,
            received: 2,
            accepted: 1,
            advertised: 0,
            stale: 2,
            router_id: None,
            hold_seconds: None,
            established_count: 1,
            last_error: Some("refused".into()),
            errors: vec![PastErrorStatus { seconds_ago: 3.0, error: "refused".into(), count: 7 }],
            history: vec![
                transition(60.0, SessionState::Established, SessionState::Active, "reset", 1),
                transition(3.0, SessionState::Connect, SessionState::Active, "refused", 7),
            ],
            reason: "refused".into(),
            bfd: Some(BfdStatus {
                state: bfd::State::Up,
                uptime_seconds: Some(1.0),
                remote_diagnostic: None,
                transmit_interval: Some(300.0),
                receive_interval: Some(300.0),
                detection_time: Some(900.0),
                failure_count: 2,
                reason: "both directions work".into(),
            }),
        };
        assert_eq!(
            session_in_full(&one),
            "Session    192.0.2.1 (rr1), AS 64512, Mesh\n\
             State      Active for 3s: refused\n\
             Router id  -\n\
             Hold time  -, established 1 times\n\
             Routes     2 received, 1 accepted, 2 stale, 0 advertised\n\
             BFD        Up, detection time 900 ms, 2 failures: both directions work\n\
             \n\
             AGO     COUNT   FROM          TO       REASON\n\
             3s      7       Connect       Active   refused\n\
             1m00s           Established   Active   reset\n\
             \n\
             AGO   COUNT   ERROR\n\
             3s    7       refused\n"
        );
    }

    #[test]
    fn ages_are_short() {
        let cases = [(0.4, "0s"), (59.9, "59s"), (60.0, "1m00s"), (3723.0, "1h02m"), (90000.0, "1d01h")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }
}
