//! Status for people: aligned columns as kubectl prints them, and words.

use std::fmt::Write;

use super::{NodeStatus, PastErrorStatus, RouteStatus, SegmentStatus, SessionStatus, TransitionStatus};

/// Rows under a head, each column as wide as its widest cell.
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

/// A time as people say it: `12s`, `3m04s`, `5h02m`, `3d04h`.
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

/// `heliograph status`.
pub fn status(status: &NodeStatus) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Node       {} ({:?}), heliograph {}, up {}",
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
            let word = if intent.rejections.is_empty() { "NOT in sync" } else { "REFUSED" };
            writeln!(out, "Intent     {word}; in force: {}, generation {}", intent.origin, intent.generation)
        }
    };
    if let Some(store) = &status.store {
        let word = if store.connected { "connected" } else { "NOT connected" };
        let error = store.last_error.as_ref().filter(|_| !store.connected);
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        let _ = writeln!(out, "Store      {}, {word} for {}{error}", store.server, age(store.since_seconds));
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
    if !status.segments.is_empty() {
        out.push('\n');
        let rows: Vec<_> = status.segments.iter().map(segment).collect();
        out.push_str(&table(&["NODE", "NEXT HOP", "VERDICT", "REASON"], &rows));
    }
    list(&mut out, "Refused intent", intent.rejections.iter().map(ToString::to_string));
    if let Some(kernel) = &status.kernel {
        let faults = kernel.errors.iter();
        list(&mut out, "Kernel errors", faults.map(|e| format!("{}: {}; {}", e.what, e.error, e.remedy)));
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
        format!("{:?}", session.role),
        session.state.clone(),
        age(session.uptime_seconds),
        session.received.to_string(),
        session.advertised.to_string(),
        or_dash(session.bfd.as_ref().map(|bfd| &bfd.state)),
        reason(session),
    ]
}

/// `heliograph status --session`: one session, and what it went through, the latest first.
pub fn session_in_full(one: &SessionStatus) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Session    {} ({}), AS {}, {:?}", one.peer, one.name, one.asn, one.role);
    let _ = writeln!(out, "State      {} for {}: {}", one.state, age(one.uptime_seconds), reason(one));
    let _ = writeln!(out, "Router id  {}", or_dash(one.router_id));
    let hold = one.hold_seconds.map(|seconds| format!("{seconds}s"));
    let _ = writeln!(out, "Hold time  {}, established {} times", or_dash(hold), one.established_count);
    let _ = writeln!(
        out,
        "Routes     {} received, {} accepted, {} stale, {} advertised",
        one.received, one.accepted, one.stale, one.advertised
    );
    if let Some(bfd) = &one.bfd {
        let silence = bfd.detection_time.map(|time| format!(", missed after {time} ms"));
        let silence = silence.unwrap_or_default();
        let _ = writeln!(
            out,
            "BFD        {}{silence}, {} failures: {}",
            bfd.state, bfd.failure_count, bfd.reason
        );
    }
    let ago = |seconds, times| vec![age(seconds), times_of(times)];
    if !one.history.is_empty() {
        let row = |t: &TransitionStatus| {
            [ago(t.seconds_ago, t.times), vec![t.from.clone(), t.to.clone(), t.why.clone()]].concat()
        };
        let rows: Vec<_> = one.history.iter().rev().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["AGO", "TIMES", "FROM", "TO", "WHY"], &rows));
    }
    if !one.errors.is_empty() {
        let row = |e: &PastErrorStatus| [ago(e.seconds_ago, e.times), vec![e.error.clone()]].concat();
        let rows: Vec<_> = one.errors.iter().rev().map(row).collect();
        out.push('\n');
        out.push_str(&table(&["AGO", "TIMES", "ERROR"], &rows));
    }
    out
}

fn times_of(times: u32) -> String {
    if times == 1 { String::new() } else { times.to_string() }
}

/// Why the session is in its state, with the last error where that says more, or why its BFD does not watch it.
fn reason(session: &SessionStatus) -> String {
    if let Some(bfd) = session.bfd.as_ref().filter(|bfd| session.established() && bfd.state != "Up") {
        return format!("{}; BFD: {}", or_dash(Some(&session.reason)), bfd.reason);
    }
    match &session.last_error {
        Some(error) if !session.established() && !session.reason.contains(error.as_str()) => {
            format!("{} (last error: {error})", session.reason)
        }
        _ => or_dash(Some(&session.reason)),
    }
}

fn segment(segment: &SegmentStatus) -> Vec<String> {
    vec![
        or_dash(segment.node.as_ref()),
        segment.next_hop.to_string(),
        segment.verdict.to_string(),
        segment.reason.clone(),
    ]
}

/// `heliograph routes`.
pub fn routes(routes: &[RouteStatus]) -> String {
    let head = [
        "PREFIX",
        "NEXT HOP",
        "FROM",
        "BEST",
        "INSTALLED",
        "VIA",
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
            or_dash(route.via),
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

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_ends() {
        let rows = vec![
            vec!["a".into(), "long cell".into(), "x".into()],
            vec!["bbb".into(), "é".into(), String::new()],
        ];
        assert_eq!(table(&["A", "B", "C"], &rows), "A     B           C\na     long cell   x\nbbb   é\n");
    }

    #[test]
    fn a_session_in_full_tells_the_latest_first() {
        let transition = |seconds_ago, from: &str, to: &str, why: &str, times| TransitionStatus {
            seconds_ago,
            from: from.into(),
            to: to.into(),
            why: why.into(),
            times,
        };
        let one = SessionStatus {
            peer: [192, 0, 2, 1].into(),
            name: "rr1".into(),
            asn: 64512,
            role: NeighborRole::Mesh,
            peer_generation: None,
            state: "Active".into(),
            uptime_seconds: 3.0,
            received: 2,
            accepted: 1,
            advertised: 0,
            stale: 2,
            router_id: None,
            hold_seconds: None,
            established_count: 1,
            last_error: Some("refused".into()),
            errors: vec![PastErrorStatus { seconds_ago: 3.0, error: "refused".into(), times: 7 }],
            history: vec![
                transition(60.0, "Established", "Active", "reset", 1),
                transition(3.0, "Connect", "Active", "refused", 7),
            ],
            reason: "refused".into(),
            bfd: Some(BfdStatus {
                state: "Up".into(),
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
             BFD        Up, missed after 900 ms, 2 failures: both directions work\n\
             \n\
             AGO     TIMES   FROM          TO       WHY\n\
             3s      7       Connect       Active   refused\n\
             1m00s           Established   Active   reset\n\
             \n\
             AGO   TIMES   ERROR\n\
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
