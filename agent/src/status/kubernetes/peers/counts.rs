//! The sessions with each BGPPeer, counted: pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::statuses::ConditionUpdate;
use crate::api::BGPSession;
use crate::api::bgp_node::SessionCounts;

/// So many nodes whose session is down are named.
const NAMED: usize = 5;

/// The sessions with each BGPPeer.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<String, Count>);

#[derive(Debug, Default)]
struct Count {
    up: u64,
    total: u64,
    /// The first few nodes without.
    down: Vec<String>,
    /// Those whose sessions' last word is that they are up.
    silent: Vec<String>,
    /// The oldest generation that one goes by, of those that say it.
    generation: Option<i64>,
}

impl Counts {
    /// Counts one. What nodes that are `silent` last said counts for nothing: nobody would take it back.
    pub fn add(&mut self, session: &BGPSession, silent: &BTreeSet<String>) {
        let status = session.status.as_ref();
        let conditions = status.iter().flat_map(|status| &status.conditions);
        let said = conditions.into_iter().any(established);
        let node = &session.spec.node;
        let count = self.0.entry(session.spec.peer_name.clone()).or_default();
        count.total += 1;
        match (said, silent.contains(node)) {
            (true, false) => count.up += 1,
            (true, true) => count.silent.push(node.clone()),
            (false, _) => count.down.push(node.clone()),
        }
        let generation = status.and_then(|status| status.peer_generation);
        count.generation = [count.generation, generation].into_iter().flatten().min();
    }

    /// How those with a BGPPeer stand, `generation` being its newest that is known: in figures, and as a condition.
    pub fn of(&self, name: &str, generation: Option<i64>) -> (SessionCounts, ConditionUpdate) {
        let none = Count::default();
        let count = self.0.get(name).unwrap_or(&none);
        let (holds, reason, message) = match count {
            Count { total: 0, .. } => (false, "NoSessions", "no node has a session with it".into()),
            Count { up, total, .. } if up == total => (true, "All", String::new()),
            Count { down, silent, .. } => {
                let parts = [("not established on", down), ("nothing is heard of", silent)];
                let parts = parts.into_iter().filter(|(_, nodes)| !nodes.is_empty());
                let parts: Vec<_> = parts.map(|(what, nodes)| format!("{what} {}", some(nodes))).collect();
                (false, "NotAll", parts.join("; "))
            }
        };
        // Without a session there is none that could lag behind.
        let generation = if count.total == 0 { generation } else { count.generation };
        let verdict = ConditionUpdate { kind: "Established", holds, reason, message, generation };
        (SessionCounts::new(count.up, count.total), verdict)
    }
}

fn established(condition: &Condition) -> bool {
    condition.type_ == "Established" && condition.status == "True"
}

fn some(nodes: &[String]) -> String {
    let named = nodes[..nodes.len().min(NAMED)].join(", ");
    match nodes.len().saturating_sub(NAMED) {
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
        let silent = ["s1", "s2", "s3"].map(String::from).into();
        for number in 0..10 {
            counts
                .add(&session(&format!("n{number}"), "tor", number > 6, 3 + i64::from(number == 4)), &silent);
        }
        for (node, up) in [("s1", true), ("s2", false), ("s3", true), ("n1", true)] {
            counts.add(&session(node, "other", up, 9), &silent);
        }
        counts.add(&session("n1", "third", true, 2), &silent);
        let cases = ["tor", "other", "third", "unused"].map(|name| {
            let (counts, verdict) = counts.of(name, Some(10));
            format!("{} {} {:?} {}", counts.established, verdict.holds, verdict.generation, verdict.message)
        });
        let expected = [
            "3/10 false Some(3) not established on n0, n1, n2, n3, n4 and 2 more",
            "1/4 false Some(9) not established on s2; nothing is heard of s1, s3",
            "1/1 true Some(2) ",
            "0/0 false Some(10) no node has a session with it",
        ];
        assert_eq!(cases, expected);
    }
}
