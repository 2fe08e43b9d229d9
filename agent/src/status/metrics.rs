//! The status as Prometheus' text format: base units, few labels, and nothing that the [`NodeStatus`] doesn't say.
//!
//! What grows with the cluster is one series a role, not one a neighbour: in a full mesh the nodes' series together
//! would otherwise grow with the square of their number. Neighbours outside the cluster and reflectors, of which there
//! are few, have series of their own always; mesh neighbours and a reflector's clients only while there are no more
//! than [`SESSIONS_A_ROLE`] of them. `heliograph_bgp_sessions_rolled_up` says how many have none.

use std::collections::BTreeMap;

use heliograph_bgp::report::SessionState;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Summary};
use prometheus::{Encoder, TextEncoder};

use super::process::Process;
use super::{BfdStatus, KernelStatus, NodeStatus, SessionStatus, StatusWriterStatus, state_name};
use crate::plan::{NeighborRole, Reachability};

/// Most mesh neighbours or clients that have series of their own.
pub const SESSIONS_A_ROLE: usize = 32;
/// The series that counts those that have none.
const ROLLED_UP: &str = "heliograph_bgp_sessions_rolled_up";
/// The content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const STATES: [SessionState; 6] = [
    SessionState::Idle,
    SessionState::Connect,
    SessionState::Active,
    SessionState::OpenSent,
    SessionState::OpenConfirm,
    SessionState::Established,
];
const REACHABILITIES: [Reachability; 4] =
    [Reachability::Direct, Reachability::Tunnel, Reachability::Routed, Reachability::Unreachable];

/// A label's name and value.
type Label = (&'static str, String);

/// The metrics of a node.
///
/// # Errors
/// The format can't say something: a fault of this program.
pub fn render(status: &NodeStatus, process: Option<&Process>) -> Result<String, prometheus::Error> {
    let mut page = Page::default();
    of_agent(&mut page, status);
    of_store(&mut page, status);
    if let Some(status_writer) = &status.status_writer {
        of_telling(&mut page, status_writer);
    }
    of_sessions(&mut page, &status.sessions);
    of_routes(&mut page, status);
    if let Some(kernel) = &status.kernel {
        of_kernel(&mut page, kernel);
    }
    if let Some(process) = process {
        of_process(&mut page, process);
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&page.families, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Families of metrics in the order in which they were added.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: MetricType, series: Vec<Metric>) {
        if series.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(series);
        self.families.push(family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(vec![], value)]);
    }

    fn gauges(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Vec<Label>, f64)>) {
        let metric = |(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_gauge(gauge);
            metric.set_label(pairs(labels));
            metric
        };
        self.family(name, help, MetricType::GAUGE, series.into_iter().map(metric).collect());
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help, [(vec![], value)]);
    }

    fn counters(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Vec<Label>, f64)>) {
        let metric = |(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_counter(counter);
            metric
        };
        self.family(name, help, MetricType::COUNTER, series.into_iter().map(metric).collect());
    }

    fn summary(&mut self, name: &str, help: &str, count: u64, sum: f64) {
        let mut summary = Summary::default();
        summary.set_sample_count(count);
        summary.set_sample_sum(sum);
        let mut metric = Metric::default();
        metric.set_summary(summary);
        self.family(name, help, MetricType::SUMMARY, vec![metric]);
    }
}

fn pairs(labels: Vec<Label>) -> Vec<LabelPair> {
    let pair = |(name, value): Label| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    labels.into_iter().map(pair).collect()
}

fn flag(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// What the code calls a thing, as a label's value.
fn word(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn of_agent(page: &mut Page, status: &NodeStatus) {
    page.gauges(
        "heliograph_build_info",
        "1, with the version and the role of this process.",
        [(vec![("version", status.version.clone()), ("role", word(status.role))], 1.0)],
    );
    page.gauge(
        "heliograph_ready",
        "Whether the first sync is done: what /readyz says.",
        flag(status.waiting_for.is_empty()),
    );
    page.gauge(
        "heliograph_problems",
        "Things that are not as they should be; `heliograph status` lists them.",
        status.problems.len() as f64,
    );
}

fn of_store(page: &mut Page, status: &NodeStatus) {
    let intent = &status.intent;
    page.gauge(
        "heliograph_store_in_sync",
        "Whether what the store holds now is in force.",
        flag(intent.in_sync),
    );
    page.counter(
        "heliograph_store_changes_total",
        "How often the intent in force has changed.",
        intent.generation as f64,
    );
    page.gauges(
        "heliograph_store_last_change_timestamp_seconds",
        "When the intent in force last changed.",
        intent.last_change_seconds.map(|seconds| (vec![], seconds)),
    );
    page.gauge(
        "heliograph_store_refusals",
        "Reasons why what the store holds now is not in force.",
        intent.rejections.len() as f64,
    );
    let store = status.store.as_ref();
    page.gauges(
        "heliograph_store_connected",
        "Whether the API server tells everything that is needed; what was last good is in force where not.",
        store.map(|store| (vec![], flag(store.connected))),
    );
    page.gauges(
        "heliograph_store_connected_state_duration_seconds",
        "How long it does, or doesn't.",
        store.map(|store| (vec![], store.since_seconds)),
    );
}

fn of_telling(page: &mut Page, status_writer: &StatusWriterStatus) {
    page.gauge(
        "heliograph_status_up_to_date",
        "Whether the cluster is told how this node stands: objects, Events, the Node's condition.",
        flag(status_writer.error.is_none()),
    );
    page.counter(
        "heliograph_status_writes_total",
        "Writes of that to the API server, done or not.",
        status_writer.writes as f64,
    );
    page.counter(
        "heliograph_status_failures_total",
        "Requests for that which the API server has refused or not answered.",
        status_writer.failures as f64,
    );
}

fn of_sessions(page: &mut Page, sessions: &[SessionStatus]) {
    let mut by_role: BTreeMap<String, Vec<&SessionStatus>> = BTreeMap::new();
    for session in sessions {
        by_role.entry(word(session.role)).or_default().push(session);
    }
    let each_state = by_role.iter().flat_map(|(role, sessions)| {
        STATES.map(|state| {
            let in_state = sessions.iter().filter(|session| session.state == state_name(state)).count();
            (vec![("role", role.clone()), ("state", word(state))], in_state as f64)
        })
    });
    page.gauges("heliograph_bgp_sessions", "BGP sessions by role of the neighbour and state.", each_state);
    for (name, help, value) in PREFIXES {
        let sums = by_role.iter().map(|(role, sessions)| {
            let sum = sessions.iter().map(|session| value(session)).sum();
            (vec![("role", role.clone())], sum)
        });
        page.gauges(&format!("heliograph_bgp_{name}_prefixes"), help, sums);
    }
    let each_bfd_state = by_role.iter().flat_map(|(role, sessions)| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for bfd in sessions.iter().filter_map(|session| session.bfd.as_ref()) {
            *counts.entry(bfd.state.to_lowercase()).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|(state, count)| (vec![("role", role.clone()), ("state", state)], count as f64))
    });
    page.gauges(
        "heliograph_bfd_sessions",
        "BFD sessions by role of the neighbour and state.",
        each_bfd_state,
    );
    let (own, rolled_up): (Vec<_>, Vec<_>) = by_role.values().partition(|sessions| has_own_series(sessions));
    let count = |sessions: &&Vec<&SessionStatus>| {
        let role = sessions.first().map(|session| word(session.role)).unwrap_or_default();
        (vec![("role", role)], sessions.len() as f64)
    };
    page.gauges(
        ROLLED_UP,
        "Sessions without series of their own, as there are too many of their role.",
        rolled_up.iter().map(count),
    );
    of_each_session(page, &own.into_iter().flatten().copied().collect::<Vec<_>>());
}

/// Counts of prefixes: name, help, and the value of a session.
type Prefixes = (&'static str, &'static str, fn(&SessionStatus) -> f64);
const PREFIXES: [Prefixes; 4] = [
    ("received", "Prefixes received, those refused by the import filter included.", |s| s.received as f64),
    ("accepted", "Prefixes received that the import filter let pass.", |s| s.accepted as f64),
    ("advertised", "Prefixes advertised.", |s| s.advertised as f64),
    ("stale", "Prefixes kept from before a neighbour's restart.", |s| s.stale as f64),
];

fn has_own_series(sessions: &[&SessionStatus]) -> bool {
    let bounded = |role| !matches!(role, NeighborRole::Mesh | NeighborRole::Client);
    sessions.len() <= SESSIONS_A_ROLE || sessions.iter().all(|session| bounded(session.role))
}

fn of_each_session(page: &mut Page, sessions: &[&SessionStatus]) {
    let labels = |session: &SessionStatus| {
        vec![("peer", session.peer.to_string()), ("name", session.name.clone()), ("role", word(session.role))]
    };
    let each = |value: fn(&SessionStatus) -> f64| {
        sessions.iter().map(|session| (labels(session), value(session))).collect::<Vec<_>>()
    };
    page.gauges(
        "heliograph_bgp_session_up",
        "Whether the session is established.",
        each(|session| flag(session.established())),
    );
    page.gauges(
        "heliograph_bgp_session_state_duration_seconds",
        "How long the session has been in its state.",
        each(|session| session.uptime_seconds),
    );
    page.counters(
        "heliograph_bgp_session_established_total",
        "How often the session was established.",
        each(|session| session.established_count as f64),
    );
    let with_bfd = |value: fn(&BfdStatus) -> f64| {
        let each =
            sessions.iter().filter_map(|session| Some((labels(session), value(session.bfd.as_ref()?))));
        each.collect::<Vec<_>>()
    };
    page.gauges(
        "heliograph_bfd_session_up",
        "Whether the BFD session of the BGP session is up.",
        with_bfd(|bfd| flag(bfd.state == "Up")),
    );
    page.counters(
        "heliograph_bfd_session_failures_total",
        "How often the BFD session failed after it had come up.",
        with_bfd(|bfd| bfd.failure_count as f64),
    );
    for (name, help, value) in PREFIXES {
        page.gauges(&format!("heliograph_bgp_session_{name}_prefixes"), help, each(value));
    }
}

fn of_routes(page: &mut Page, status: &NodeStatus) {
    let routes = status.routes.iter().map(|routes| {
        (vec![("family", routes.family.clone()), ("verdict", routes.verdict.clone())], routes.count as f64)
    });
    page.gauges(
        "heliograph_bgp_routes",
        "Best routes learned, by family and by what becomes of them on this node.",
        routes,
    );
    if status.kernel.is_some() {
        let next_hops = REACHABILITIES.map(|verdict| {
            let with = status.segments.iter().filter(|segment| segment.verdict == verdict).count();
            (vec![("verdict", word(verdict))], with as f64)
        });
        page.gauges("heliograph_next_hops", "Next hops of best routes, by how packets get there.", next_hops);
    }
}

fn of_kernel(page: &mut Page, kernel: &KernelStatus) {
    let gauges = [
        (
            "in_sync",
            "Whether the kernel holds what it should and nothing else of ours.",
            flag(kernel.in_sync),
        ),
        ("routes", "Routes of ours that the kernel holds.", kernel.routes as f64),
        ("desired_routes", "Routes that the kernel should hold.", kernel.desired as f64),
        (
            "kept_objects",
            "Things of ours not wanted but kept until all peers have said what they know.",
            kernel.kept as f64,
        ),
        ("errors", "Sorts of things that the kernel does not do now.", kernel.errors.len() as f64),
    ];
    for (name, help, value) in gauges {
        page.gauge(&format!("heliograph_kernel_{name}"), help, value);
    }
    page.counter(
        "heliograph_kernel_changes_total",
        "Changes that the kernel has confirmed.",
        kernel.changes as f64,
    );
    page.counter(
        "heliograph_kernel_failures_total",
        "Requests that the kernel has refused or not answered.",
        kernel.failures as f64,
    );
    page.summary(
        "heliograph_kernel_programming_duration_seconds",
        "Time it took to bring the kernel to what it should hold, where anything had to change.",
        kernel.programmings,
        kernel.programming_seconds,
    );
}

fn of_process(page: &mut Page, process: &Process) {
    page.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        process.cpu_seconds,
    );
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_bytes),
        ("process_open_fds", "Number of open file descriptors.", process.open_files),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            process.start_seconds,
        ),
    ];
    gauges.into_iter().for_each(|(name, help, value)| page.gauge(name, help, value));
}

#[cfg(test)]
mod tests {
    use super::super::testing::{session, status};
    use super::*;

    #[test]
    fn what_the_cluster_is_told_is_there_where_there_is_one() {
        let mut status = status();
        let up_to_date = "heliograph_status_up_to_date";
        assert_eq!(value(&lines(&status), up_to_date), None);
        status.status_writer = Some(StatusWriterStatus { error: None, writes: 7, failures: 2 });
        let told = lines(&status);
        assert_eq!(value(&told, up_to_date), Some(1.0));
        assert_eq!(value(&told, "heliograph_status_writes_total"), Some(7.0));
        assert_eq!(value(&told, "heliograph_status_failures_total"), Some(2.0));
        status.status_writer =
            Some(StatusWriterStatus { error: Some("forbidden".into()), ..Default::default() });
        assert_eq!(value(&lines(&status), up_to_date), Some(0.0));
    }

    fn lines(status: &NodeStatus) -> Vec<String> {
        let process =
            Process { cpu_seconds: 1.5, resident_bytes: 4096.0, open_files: 7.0, start_seconds: 9e8 };
        render(status, Some(&process)).unwrap().lines().map(str::to_owned).collect()
    }

    fn value(lines: &[String], series: &str) -> Option<f64> {
        lines.iter().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn the_figures_are_those_of_the_status() {
        let lines = lines(&status());
        for (series, wanted) in [
            ("heliograph_bgp_sessions{role=\"mesh\",state=\"established\"}", 1.0),
            ("heliograph_bgp_sessions{role=\"mesh\",state=\"idle\"}", 1.0),
            ("heliograph_bgp_sessions{role=\"external\",state=\"connect\"}", 0.0),
            ("heliograph_bgp_received_prefixes{role=\"mesh\"}", 10.0),
            ("heliograph_bgp_session_up{peer=\"192.0.2.9\",name=\"tor \\\"1\\\"\",role=\"external\"}", 1.0),
            ("heliograph_bfd_sessions{role=\"external\",state=\"up\"}", 1.0),
            (
                "heliograph_bfd_session_failures_total{peer=\"192.0.2.9\",name=\"tor \\\"1\\\"\",role=\"external\"}",
                2.0,
            ),
            ("heliograph_bgp_routes{family=\"ipv4\",verdict=\"tunnel\"}", 3.0),
            ("heliograph_next_hops{verdict=\"unreachable\"}", 0.0),
            ("heliograph_kernel_routes", 4.0),
            ("heliograph_kernel_programming_duration_seconds_sum", 0.25),
            ("heliograph_kernel_programming_duration_seconds_count", 2.0),
            ("heliograph_store_changes_total", 3.0),
            ("heliograph_ready", 0.0),
            ("process_open_fds", 7.0),
        ] {
            assert_eq!(value(&lines, series), Some(wanted), "{series} in {lines:#?}");
        }
    }

    #[test]
    fn names_and_help_are_as_prometheus_wants_them() {
        let lines = lines(&status());
        let kinds = lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        for (name, kind) in kinds {
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            for unit in ["_ms", "_milliseconds", "_kilobytes", "_minutes"] {
                assert!(!name.contains(unit), "{name} isn't in a base unit");
            }
            let help = lines.iter().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
            assert!(help.is_some_and(|help| help.ends_with('.')), "{name}: {help:?}");
        }
    }

    #[test]
    fn series_of_a_node_do_not_grow_with_the_cluster() {
        let series = |count: usize| {
            let mut status = status();
            status.sessions =
                (0..count).map(|n| session(&format!("node-{n}"), n as u32, NeighborRole::Mesh)).collect();
            let lines = lines(&status);
            let rolled_up = value(&lines, "heliograph_bgp_sessions_rolled_up{role=\"mesh\"}");
            (lines.iter().filter(|line| !line.starts_with('#')).count(), rolled_up)
        };
        let (few, none) = series(SESSIONS_A_ROLE);
        let (many, rolled_up) = series(SESSIONS_A_ROLE + 1);
        assert!(few > 7 * SESSIONS_A_ROLE && many < 80, "{few} and {many}");
        assert_eq!((none, rolled_up), (None, Some(33.0)));
        assert_eq!(series(5000).0, many);
    }

    #[test]
    fn a_reflector_has_no_kernel() {
        let mut status = status();
        status.kernel = None;
        assert!(!lines(&status).iter().any(|line| line.contains("_kernel_") || line.contains("next_hops")));
    }
}
