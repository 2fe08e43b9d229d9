//! Which of Kubernetes' tests are left out, and why.

/// Words in the names of the network's tests.
pub const GROUP: &str = "[sig-network]";
/// The regular expression that finds them.
pub const FOCUS: &str = r"\[sig-network\]";
/// The number of nodes of the tests' cluster: the most that any of them requires.
pub const NODES: usize = 3;

/// A reason for which tests are left out.
#[derive(Debug)]
pub struct Rule {
    /// The reason, as a heading.
    pub why: &'static str,
    /// Parts of the names of the tests it is true of.
    pub names: &'static [&'static str],
}

/// All rules: the first that matches counts.
pub const ALL: [Rule; 8] = [
    Rule { why: "Heliograph enforces no network policies", names: &["[Feature:NetworkPolicy]"] },
    Rule { why: "They need a load balancer, which a cloud would bring", names: &["[Feature:LoadBalancer]"] },
    Rule {
        why: "They need the Internet",
        names: &["[Feature:Networking-IPv4]", "[Feature:Networking-IPv6]", "[Feature:Networking-DNS]"],
    },
    Rule {
        why: "They need SCTP in the kernel, which many a machine has not",
        names: &["[Feature:SCTPConnectivity]"],
    },
    Rule {
        why: "They need a kube-proxy or a CoreDNS that runs as a pod and can be reconfigured",
        names: &[
            "[Feature:KubeProxyDaemonSetMigration]",
            "DNS configMap nameserver",
            "should work after restarting kube-proxy",
            "should work after restarting apiserver",
        ],
    },
    Rule {
        why: "They are about kube-proxy's iptables mode, or a feature that is off by default",
        names: &["[Feature:KubeProxyNFAcct]", "should recreate its iptables rules", "[Feature:OffByDefault]"],
    },
    Rule {
        why: "They need a kubelet that evicts pods for the disk they use: here all disks are memory",
        names: &["should be rejected for evicted pods"],
    },
    Rule {
        why: "They measure how fast a machine is, not whether its network is right",
        names: &["[Feature:Networking-Performance]", "[Feature:PerformanceDNS]"],
    },
];

/// The rule that leaves a test out, as its place among all.
#[must_use]
pub fn find(name: &str) -> Option<usize> {
    ALL.iter().position(|rule| rule.names.iter().any(|part| name.contains(part)))
}

/// The regular expression that finds what is left out.
#[must_use]
pub fn skip() -> String {
    let parts = ALL.iter().flat_map(|rule| rule.names);
    parts.map(|part| escape(part)).collect::<Vec<_>>().join("|")
}

/// A regular expression that finds just this text.
fn escape(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_a_text_and_not_a_pattern() {
        assert_eq!(escape("[Feature:A.b] (c)"), r"\[Feature:A\.b\] \(c\)");
        assert!(find("[sig-network] LoadBalancers [Feature:LoadBalancer] work").is_some());
        assert_eq!(find("[sig-network] Networking Granular Checks: Pods"), None);
    }
}
