//! The numbers of sessions with each BGPPeer. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::condition::ConditionUpdate;
use crate::api::BGPSession;
use crate::api::bgp_node::SessionCounts;

/// The largest number of nodes that a message names.
const MAX_NAMED: usize = 5;

/// The numbers of sessions, by BGPPeer.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<String, Count>);

#[derive(Debug, Default)]
struct Count {
    up: u64,
    total: u64,
    /// The nodes whose session is down.
    down: Vec<String>,
    /// The unreachable nodes whose session was up in the last report.
    unreachable: Vec<String>,
    /// The oldest generation of the BGPPeer that a session uses, of those that report it.
    generation: Option<i64>,
}

impl Counts {
    /// Counts a session. Reports of unreachable nodes are out of date: their sessions count as down.
    pub fn add(&mut self, session: &BGPSession, unreachable: &BTreeSet<String>) {
        let status = session.status.as_ref();
        let conditions = status.iter().flat_map(|status| &status.conditions);
        let reported_up = conditions.into_iter().any(established);
        let node = &session.spec.node;
        let count = self.0.entry(session.spec.peer_name.clone()).or_default();
        count.total += 1;
        match (reported_up, unreachable.contains(node)) {
            (true, false) => count.up += 1,
            (true, true) => count.unreachable.push(node.clone()),
            (false, _) => count.down.push(node.clone()),
        }
        let generation = status.and_then(|status| status.peer_generation);
        count.generation = [count.generation, generation].into_iter().flatten().min();
    }

    /// Returns the numbers of a BGPPeer's sessions and the condition Established. `generation` is its newest known one.
    pub fn of(&self, name: &str, generation: Option<i64>) -> (SessionCounts, ConditionUpdate) {
        let none = Count::default();
        let count = self.0.get(name).unwrap_or(&none);
        let (holds, reason, message) = match count {
            Count { total: 0, .. } => (false, "NoSessions", "no node has a session with it".into()),
            Count { up, total, .. } if up == total => (true, "All", String::new()),
            Count { down, unreachable, .. } => {
                let parts = [("not established on", down), ("unreachable nodes:", unreachable)];
                let parts = parts.into_iter().filter(|(_, nodes)| !nodes.is_empty());
                let parts: Vec<_> =
                    parts.map(|(state, nodes)| format!("{state} {}", first_few(nodes))).collect();
                (false, "NotAll", parts.join("; "))
            }
        };
        // Without a session no older generation is in use.
        let generation = if count.total == 0 { generation } else { count.generation };
        let condition = ConditionUpdate { kind: "Established", holds, reason, message, generation };
        (SessionCounts::new(count.up, count.total), condition)
    }
}

fn established(condition: &Condition) -> bool {
    condition.type_ == "Established" && condition.status == "True"
}

fn first_few(nodes: &[String]) -> String {
    let named = nodes[..nodes.len().min(MAX_NAMED)].join(", ");
    match nodes.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::session;
    use super::*;

    #[test]
    fn sessions_are_counted_by_peer() {
        let mut counts = Counts::default();
        let unreachable = ["s1", "s2", "s3"].map(String::from).into();
        for number in 0..10 {
            counts.add(
                &session(&format!("n{number}"), "tor", number > 6, 3 + i64::from(number == 4)),
                &unreachable,
            );
        }
        for (node, up) in [("s1", true), ("s2", false), ("s3", true), ("n1", true)] {
            counts.add(&session(node, "other", up, 9), &unreachable);
        }
        counts.add(&session("n1", "third", true, 2), &unreachable);
        let cases = ["tor", "other", "third", "unused"].map(|name| {
            let (counts, condition) = counts.of(name, Some(10));
            format!(
                "{} {} {:?} {}",
                counts.established, condition.holds, condition.generation, condition.message
            )
        });
        let expected = [
            "3/10 false Some(3) not established on n0, n1, n2, n3, n4 and 2 more",
            "1/4 false Some(9) not established on s2; unreachable nodes: s1, s3",
            "1/1 true Some(2) ",
            "0/0 false Some(10) no node has a session with it",
        ];
        assert_eq!(cases, expected);
    }
}
