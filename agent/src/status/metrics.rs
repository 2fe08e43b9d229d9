//! The metrics in Prometheus' text format: a view of the [`NodeStatus`], in base units and with few labels.
//!
//! Values of labels are the names of [`crate::names`], as in JSON and in the cluster's objects.
//!
//! The number of series per node does not grow with the cluster: in a full mesh the series of all nodes would grow with the
//! square of the number of nodes. External and internal neighbors and reflectors, which are few, always have series of
//! their own. Mesh neighbors and a reflector's clients have them while a role has no more than [`MAX_SESSIONS_OF_ROLE`] of
//! them. `heliograph_bgp_sessions_rolled_up` counts the sessions without.

use std::collections::BTreeMap;

use heliograph_bgp::bfd;
use heliograph_bgp::report::SessionState;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Summary};
use prometheus::{Encoder, TextEncoder};

use super::process::Process;
use super::{BfdStatus, KernelStatus, NodeStatus, SessionStatus, StatusWriterStatus};
use crate::names::Named;
use crate::plan::{NeighborRole, Reachability};

/// The largest number of mesh neighbors, or of clients, that have series of their own.
pub const MAX_SESSIONS_OF_ROLE: usize = 32;
/// The content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A label's name and value.
type Label = (&'static str, String);

/// Renders the metrics of a node.
///
/// # Errors
/// The format cannot express a name: a fault of this program.
pub fn render(status: &NodeStatus, process: Option<&Process>) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&Page::new(status, process).families, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The families of metrics, in the order of their addition.
#[derive(Default)]
struct Page {
    families: Vec<MetricFamily>,
}

impl Page {
    fn new(status: &NodeStatus, process: Option<&Process>) -> Self {
        let mut page = Self::default();
        add_agent(&mut page, status);
        add_intent(&mut page, status);
        if let Some(status_writer) = &status.status_writer {
            add_status_writer(&mut page, status_writer);
        }
        add_sessions(&mut page, &status.sessions);
        add_routes(&mut page, status);
        if let Some(kernel) = &status.kernel {
            add_kernel(&mut page, kernel);
        }
        if let Some(process) = process {
            add_process(&mut page, process);
        }
        page
    }

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

fn add_agent(page: &mut Page, status: &NodeStatus) {
    page.gauges(
        "heliograph_build_info",
        "Always 1, with the version and the role of the process.",
        [(vec![("version", status.version.clone()), ("role", status.role.to_string())], 1.0)],
    );
    page.gauge(
        "heliograph_ready",
        "1 after the first sync, as /readyz reports; 0 before.",
        flag(status.waiting_for.is_empty()),
    );
    page.gauge(
        "heliograph_problems",
        "Number of problems that `heliograph status` lists.",
        status.problems.len() as f64,
    );
}

fn add_intent(page: &mut Page, status: &NodeStatus) {
    let intent = &status.intent;
    page.gauge(
        "heliograph_intent_in_sync",
        "1 if the present content of the store is in force; else 0.",
        flag(intent.in_sync),
    );
    page.counter(
        "heliograph_intent_changes_total",
        "Number of changes of the intent in force.",
        intent.generation as f64,
    );
    page.gauges(
        "heliograph_intent_last_change_timestamp_seconds",
        "Unix time of the last change of the intent in force.",
        intent.last_change_timestamp_seconds.map(|seconds| (vec![], seconds)),
    );
    page.gauge(
        "heliograph_intent_rejections",
        "Number of reasons why the present content of the store is not in force.",
        intent.rejections.len() as f64,
    );
    let store = status.store.as_ref();
    page.gauges(
        "heliograph_store_connected",
        "1 if all required objects are received from the API server; 0 while the last good intent is used instead.",
        store.map(|store| (vec![], flag(store.connected))),
    );
    page.gauges(
        "heliograph_store_state_duration_seconds",
        "Time since heliograph_store_connected last changed, in seconds.",
        store.map(|store| (vec![], store.since_seconds)),
    );
}

fn add_status_writer(page: &mut Page, status_writer: &StatusWriterStatus) {
    page.gauge(
        "heliograph_status_writer_up_to_date",
        "1 if the node's objects, Events and condition in the cluster are up to date; else 0.",
        flag(status_writer.error.is_none()),
    );
    page.counter(
        "heliograph_status_writer_writes_total",
        "Number of write requests of the status writer to the API server, failed ones included.",
        status_writer.writes as f64,
    );
    page.counter(
        "heliograph_status_writer_request_failures_total",
        "Number of requests of the status writer that the API server rejected or did not answer.",
        status_writer.failures as f64,
    );
}

fn add_sessions(page: &mut Page, sessions: &[SessionStatus]) {
    let mut by_role: BTreeMap<NeighborRole, Vec<&SessionStatus>> = BTreeMap::new();
    for session in sessions {
        by_role.entry(session.role).or_default().push(session);
    }
    let role_label = |role: NeighborRole| ("role", role.to_string());
    let state_label = |state: &'static str| ("state", state.to_string());
    let by_state = by_role.iter().flat_map(|(role, sessions)| {
        SessionState::ALL.iter().map(move |state| {
            let count = sessions.iter().filter(|session| session.state == *state).count();
            (vec![role_label(*role), state_label(state.as_str())], count as f64)
        })
    });
    page.gauges(
        "heliograph_bgp_sessions",
        "Number of BGP sessions, by the neighbor's role and by state.",
        by_state,
    );
    for (name, help, value) in PREFIXES {
        let sums = by_role.iter().map(|(role, sessions)| {
            let sum = sessions.iter().map(|session| value(session)).sum();
            (vec![role_label(*role)], sum)
        });
        let help = format!("{help}, by the neighbor's role.");
        page.gauges(&format!("heliograph_bgp_{name}_prefixes"), &help, sums);
    }
    let by_bfd_state = by_role.iter().flat_map(|(role, sessions)| {
        let states: Vec<_> =
            sessions.iter().filter_map(|session| Some(session.bfd.as_ref()?.state)).collect();
        let present = bfd::State::ALL.iter().filter_map(move |state| {
            let count = states.iter().filter(|found| *found == state).count();
            (count > 0).then(|| (vec![role_label(*role), state_label(state.as_str())], count as f64))
        });
        present.collect::<Vec<_>>()
    });
    page.gauges(
        "heliograph_bfd_sessions",
        "Number of BFD sessions, by the neighbor's role and by state; states without sessions are absent.",
        by_bfd_state,
    );
    let (own, rolled_up): (Vec<_>, Vec<_>) =
        by_role.iter().partition(|(role, sessions)| has_own_series(**role, sessions.len()));
    page.gauges(
        "heliograph_bgp_sessions_rolled_up",
        "Number of sessions without series of their own, because their role has too many; absent if there are none.",
        rolled_up.iter().map(|(role, sessions)| (vec![role_label(**role)], sessions.len() as f64)),
    );
    add_each_session(page, &own.into_iter().flat_map(|(_, sessions)| sessions).copied().collect::<Vec<_>>());
}

/// Counts of prefixes: a part of the metric's name, the help, and the value of a session.
type Prefixes = (&'static str, &'static str, fn(&SessionStatus) -> f64);
const PREFIXES: [Prefixes; 4] = [
    ("received", "Number of prefixes received, those that the import filter rejects included", |session| {
        session.received as f64
    }),
    ("accepted", "Number of prefixes received that the import filter accepts", |session| {
        session.accepted as f64
    }),
    ("advertised", "Number of prefixes advertised", |session| session.advertised as f64),
    ("stale", "Number of prefixes kept from before a neighbor's restart", |session| session.stale as f64),
];

fn has_own_series(role: NeighborRole, sessions: usize) -> bool {
    let grows_with_cluster = matches!(role, NeighborRole::Mesh | NeighborRole::Client);
    !grows_with_cluster || sessions <= MAX_SESSIONS_OF_ROLE
}

fn add_each_session(page: &mut Page, sessions: &[&SessionStatus]) {
    let labels = |session: &SessionStatus| {
        vec![
            ("peer", session.peer.to_string()),
            ("name", session.name.clone()),
            ("role", session.role.to_string()),
        ]
    };
    let each = |value: fn(&SessionStatus) -> f64| {
        sessions.iter().map(|session| (labels(session), value(session))).collect::<Vec<_>>()
    };
    page.gauges(
        "heliograph_bgp_session_up",
        "1 if the session is established; else 0.",
        each(|session| flag(session.established())),
    );
    page.gauges(
        "heliograph_bgp_session_state_duration_seconds",
        "Time since the session's state last changed, in seconds.",
        each(|session| session.uptime_seconds),
    );
    page.counters(
        "heliograph_bgp_session_established_total",
        "Number of times that the session was established.",
        each(|session| session.established_count as f64),
    );
    let with_bfd = |value: fn(&BfdStatus) -> f64| {
        let each =
            sessions.iter().filter_map(|session| Some((labels(session), value(session.bfd.as_ref()?))));
        each.collect::<Vec<_>>()
    };
    page.gauges(
        "heliograph_bfd_session_up",
        "1 if the BFD session of the BGP session is up; else 0.",
        with_bfd(|own| flag(own.state == bfd::State::Up)),
    );
    page.counters(
        "heliograph_bfd_session_failures_total",
        "Number of failures of the BFD session after it had come up.",
        with_bfd(|own| own.failure_count as f64),
    );
    for (name, help, value) in PREFIXES {
        page.gauges(&format!("heliograph_bgp_session_{name}_prefixes"), &format!("{help}."), each(value));
    }
}

fn add_routes(page: &mut Page, status: &NodeStatus) {
    let routes = status.route_counts.iter().map(|routes| {
        let labels =
            vec![("family", routes.family.to_string()), ("disposition", routes.disposition.to_string())];
        (labels, routes.count as f64)
    });
    page.gauges(
        "heliograph_bgp_routes",
        "Number of learned best routes, by address family and by the agent's use of them.",
        routes,
    );
    if status.kernel.is_some() {
        let next_hops = Reachability::ALL.iter().map(|reachability| {
            let count = status.next_hops.iter().filter(|hop| hop.reachability == *reachability).count();
            (vec![("reachability", reachability.to_string())], count as f64)
        });
        page.gauges(
            "heliograph_next_hops",
            "Number of next hops of best routes, by reachability.",
            next_hops,
        );
    }
}

fn add_kernel(page: &mut Page, kernel: &KernelStatus) {
    let gauges = [
        (
            "in_sync",
            "1 if the kernel holds what is desired, and nothing else of Heliograph; else 0.",
            flag(kernel.in_sync),
        ),
        ("routes", "Number of Heliograph's routes in the kernel.", kernel.routes as f64),
        ("desired_routes", "Number of routes that the kernel should hold.", kernel.desired as f64),
        (
            "kept_objects",
            "Number of objects that are not desired but are kept until the first sync is done.",
            kernel.kept as f64,
        ),
        ("errors", "Number of changes that fail at present, by kind and error.", kernel.errors.len() as f64),
    ];
    for (name, help, value) in gauges {
        page.gauge(&format!("heliograph_kernel_{name}"), help, value);
    }
    page.counter(
        "heliograph_kernel_changes_total",
        "Number of changes that the kernel acknowledged.",
        kernel.changes as f64,
    );
    page.counter(
        "heliograph_kernel_request_failures_total",
        "Number of requests that the kernel rejected or did not answer.",
        kernel.failures as f64,
    );
    page.summary(
        "heliograph_kernel_reconcile_duration_seconds",
        "Time of reconciliations that had something to change, in seconds.",
        kernel.reconciliations,
        kernel.reconcile_seconds,
    );
}

fn add_process(page: &mut Page, process: &Process) {
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
    use crate::status::StoreStatus;

    #[test]
    fn the_status_writer_has_metrics_if_there_is_a_cluster() {
        let mut status = status();
        let up_to_date = "heliograph_status_writer_up_to_date";
        assert_eq!(value(&lines(&status), up_to_date), None);
        status.status_writer = Some(StatusWriterStatus { error: None, writes: 7, failures: 2 });
        let found = lines(&status);
        assert_eq!(value(&found, up_to_date), Some(1.0));
        assert_eq!(value(&found, "heliograph_status_writer_writes_total"), Some(7.0));
        assert_eq!(value(&found, "heliograph_status_writer_request_failures_total"), Some(2.0));
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
    fn values_are_those_of_the_status() {
        let lines = lines(&status());
        for (series, expected) in [
            ("heliograph_bgp_sessions{role=\"Mesh\",state=\"Established\"}", 1.0),
            ("heliograph_bgp_sessions{role=\"Mesh\",state=\"Idle\"}", 1.0),
            ("heliograph_bgp_sessions{role=\"External\",state=\"Connect\"}", 0.0),
            ("heliograph_bgp_received_prefixes{role=\"Mesh\"}", 10.0),
            ("heliograph_bgp_session_up{peer=\"192.0.2.9\",name=\"tor \\\"1\\\"\",role=\"External\"}", 1.0),
            ("heliograph_bfd_sessions{role=\"External\",state=\"Up\"}", 1.0),
            (
                "heliograph_bfd_session_failures_total{peer=\"192.0.2.9\",name=\"tor \\\"1\\\"\",role=\"External\"}",
                2.0,
            ),
            ("heliograph_bgp_routes{family=\"IPv4\",disposition=\"Tunnel\"}", 3.0),
            ("heliograph_next_hops{reachability=\"Unreachable\"}", 0.0),
            ("heliograph_kernel_routes", 4.0),
            ("heliograph_kernel_reconcile_duration_seconds_sum", 0.25),
            ("heliograph_kernel_reconcile_duration_seconds_count", 2.0),
            ("heliograph_intent_changes_total", 3.0),
            ("heliograph_ready", 0.0),
            ("process_open_fds", 7.0),
        ] {
            assert_eq!(value(&lines, series), Some(expected), "{series} in {lines:#?}");
        }
    }

    #[test]
    fn names_and_help_follow_prometheus_conventions() {
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
            let rolled_up = value(&lines, "heliograph_bgp_sessions_rolled_up{role=\"Mesh\"}");
            (lines.iter().filter(|line| !line.starts_with('#')).count(), rolled_up)
        };
        let (few, none) = series(MAX_SESSIONS_OF_ROLE);
        let (many, rolled_up) = series(MAX_SESSIONS_OF_ROLE + 1);
        assert!(few > 7 * MAX_SESSIONS_OF_ROLE && many < 80, "{few} and {many}");
        assert_eq!((none, rolled_up), (None, Some(33.0)));
        assert_eq!(series(5000).0, many);
    }

    #[test]
    fn a_reflector_has_no_kernel() {
        let mut status = status();
        status.kernel = None;
        assert!(!lines(&status).iter().any(|line| line.contains("_kernel_") || line.contains("next_hops")));
    }

    /// Returns a page with every metric.
    fn every_metric() -> Page {
        let mut status = status();
        status.store = Some(StoreStatus {
            server: String::new(),
            connected: true,
            since_seconds: 1.0,
            last_error: None,
            node_uid: None,
            rejected: false,
        });
        status.status_writer = Some(StatusWriterStatus::default());
        let clients = 0..=MAX_SESSIONS_OF_ROLE as u32;
        status.sessions.extend(clients.map(|number| session("client", number, NeighborRole::Client)));
        let process = Process { cpu_seconds: 0.0, resident_bytes: 0.0, open_files: 0.0, start_seconds: 0.0 };
        Page::new(&status, Some(&process))
    }

    /// Writes the table instead of comparing it with `HELIOGRAPH_UPDATE=1` in the environment (`make manifests`).
    #[test]
    fn the_reference_in_the_documentation_is_complete() {
        let rows = every_metric().families.into_iter().map(|family| {
            let labels = family.get_metric()[0].get_label().iter().map(|label| label.name());
            let labels = labels.collect::<Vec<_>>().join(", ");
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            format!("| `{}` | {kind} | {labels} | {} |\n", family.name(), family.help())
        });
        let table =
            format!("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n{}", rows.collect::<String>());
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let start = page.find("| Metric |").unwrap();
        let end = start + page[start..].find("\n\n").map_or(page.len() - start, |end| end + 1);
        if std::env::var_os("HELIOGRAPH_UPDATE").is_some() {
            std::fs::write(path, format!("{}{table}{}", &page[..start], &page[end..])).unwrap();
            return;
        }
        assert_eq!(page[start..end], table, "run `make manifests`");
    }
}
