//! The conditions of shared objects. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The desired content of a condition.
#[derive(Clone, Debug)]
pub struct ConditionUpdate {
    /// Its type.
    pub kind: &'static str,
    /// True for the status `True`, false for `False`.
    pub holds: bool,
    /// The reason, one word.
    pub reason: &'static str,
    /// The text for people.
    pub message: String,
    /// The observed generation of the object.
    pub generation: Option<i64>,
}

impl ConditionUpdate {
    /// Returns the new condition. It keeps its time while its status is the same.
    pub fn apply(self, before: Option<&Condition>, now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let since =
            before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
        // Conditions are written with whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: self.message,
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: self.generation,
        }
    }
}
