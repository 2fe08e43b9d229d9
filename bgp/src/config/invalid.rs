//! The rules about the fields of a neighbor.

use super::{AoKey, Authentication, Filter, Neighbor, Timers, Ttl};
#[cfg(feature = "bfd")]
use crate::bfd;

/// A field with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{problem}: {remedy}")]
pub struct InvalidField {
    /// The field of a [`Neighbor`], as a path: `timers.hold`.
    pub field: &'static str,
    /// The problem.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl Neighbor {
    /// Returns all fields with invalid values, as of a neighbor of a speaker in the AS `our_asn`.
    pub fn invalid_fields(&self, our_asn: u32) -> Vec<InvalidField> {
        let mut found = Vec::new();
        let mut invalid = |field, problem: &str, remedy: &str| {
            found.push(InvalidField { field, problem: problem.into(), remedy: remedy.into() });
        };
        let internal = self.asn == our_asn;
        let inside = "the neighbor is in our own AS";
        if self.asn == 0 {
            invalid("asn", "AS number 0 is reserved (RFC 7607)", "give the AS number that the peer uses");
        }
        if self.reflector_client && !internal {
            let problem = "only an internal neighbor can be a reflector's client (RFC 4456 §6)";
            invalid("reflector_client", problem, "use our own AS");
        }
        if matches!(&self.import, Filter::Rules(policy) if policy.sets_next_hop()) {
            let problem = "our own address (nextHopSelf) cannot be the next hop of learned paths";
            invalid("import", problem, "set it in the export filter");
        }
        if let Some(local) = self.local_asn {
            if local == 0 || local == self.asn {
                let problem = format!(
                    "AS number {local} can't be the local one of this session (RFC 7607, RFC 7705 §3)"
                );
                let remedy = "give the AS number that the peer has configured for its neighbor";
                invalid("local_asn", &problem, remedy);
            } else if internal {
                let remedy = "remove the local AS number: it is for external neighbors (RFC 7705 §3)";
                invalid("local_asn", inside, remedy);
            }
        }
        if self.role.is_some() && internal {
            invalid("role", inside, "remove the role: it is for external neighbors (RFC 9234 §4)");
        }
        if self.strict_role && self.role.is_none() {
            invalid("strict_role", "a strict role needs a role", "set our role towards the neighbor");
        }
        if let Some(limit) = self.prefix_limit {
            if limit.max == 0 {
                invalid(
                    "prefix_limit.max",
                    "a limit of 0 accepts no prefix",
                    "give at least 1, or import nothing",
                );
            }
            if !(1..=100).contains(&limit.warn_percent) {
                let problem = format!("{} is not a percentage of the limit", limit.warn_percent);
                invalid("prefix_limit.warn_percent", &problem, "give 1 to 100");
            }
        }
        if matches!(self.ttl, Ttl::Hops(0) | Ttl::Security(0)) {
            let problem = "a packet with 0 hops reaches no peer";
            invalid("ttl", problem, "give 1 for the same link, or more");
        }
        let key = match &self.authentication {
            Some(Authentication::Md5(key) | Authentication::Ao(AoKey { key, .. })) => Some(key),
            None => None,
        };
        if let Some(octets) = key.map(|key| key.0.len()).filter(|octets| !(1..=80).contains(octets)) {
            let problem = format!("the key has {octets} octets");
            invalid("authentication", &problem, "give 1 to 80 octets: the kernel supports no other");
        }
        #[cfg(feature = "bfd")]
        if let Some(problem) = self.bfd.as_ref().and_then(|bfd| self.bfd_problem(bfd)) {
            invalid("bfd", &problem.0, problem.1);
        }
        if self.families.is_empty() {
            invalid("families", "no address family is listed", "list at least one");
        }
        found.extend(self.timers.invalid_fields());
        found
    }

    #[cfg(feature = "bfd")]
    fn bfd_problem(&self, bfd: &bfd::Settings) -> Option<(String, &'static str)> {
        let further = matches!(self.ttl, Ttl::Hops(2..) | Ttl::Security(2..));
        if further && bfd.path == bfd::Path::SingleHop {
            let problem = "the neighbor may be several hops away, but a single-hop session (RFC 5881) accepts only \
                           packets from the same link";
            return Some((problem.into(), "make BFD multihop"));
        }
        bfd.validate(self.address).err().map(|problem| (format!("BFD: {problem}"), "correct it"))
    }
}

impl Timers {
    /// Returns all fields with invalid values, as fields of a [`Neighbor`].
    pub fn invalid_fields(&self) -> Vec<InvalidField> {
        let mut found = Vec::new();
        let mut invalid = |field, problem: String, remedy: String| {
            found.push(InvalidField { field, problem, remedy });
        };
        let hold = self.hold.as_secs();
        if self.hold.subsec_nanos() != 0 || hold > u64::from(u16::MAX) || matches!(hold, 1 | 2) {
            let problem =
                format!("a hold time of {} s is not allowed (RFC 4271 §4.2)", self.hold.as_secs_f64());
            invalid("timers.hold", problem, "give 0 (never expires) or 3 to 65535 whole seconds".into());
        }
        match self.keepalive {
            Some(keepalive) if keepalive.is_zero() => {
                let problem = "without KEEPALIVEs the session ends after the hold time".into();
                invalid("timers.keepalive", problem, "leave it out for a third of the hold time".into());
            }
            Some(keepalive) if hold > 0 && keepalive >= self.hold => {
                let problem =
                    format!("{} s is not less than the hold time of {hold} s", keepalive.as_secs_f64());
                let remedy = format!("give at most {}, a third of the hold time (RFC 4271 §10)", hold / 3);
                invalid("timers.keepalive", problem, remedy);
            }
            _ => {}
        }
        if self.send_hold.is_some_and(|send_hold| send_hold <= self.hold) {
            let problem = format!("it is not more than the hold time of {hold} s (RFC 9687 §3.2)");
            let remedy = "give more, or leave it out for 8 minutes or twice the hold time".into();
            invalid("timers.send_hold", problem, remedy);
        }
        if self.connect_retry.is_zero() {
            invalid(
                "timers.connect_retry",
                "0 would retry without a pause".into(),
                "give at least 1 s".into(),
            );
        }
        found
    }
}
