//! Which agent does what one alone has to do: whoever holds the Lease. Pure, with time as a value.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;

/// The Lease's name, in Heliograph's namespace.
pub const NAME: &str = "heliograph-peers";
/// Who hasn't renewed for so long has lost it.
const DURATION: Duration = Duration::from_secs(60);
/// Who holds it renews it so often.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Anyone else looks so often: thousands of agents do.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// It is somebody else's.
    Theirs,
    /// It is ours until it has to be renewed.
    Ours,
    /// Ask for it by writing this; it is ours if nobody was faster.
    Ask(Box<Lease>),
}

/// Whose turn it is. Clocks that differ by less than the duration do no harm: at worst two do the same for a while.
pub fn turn(found: Option<&Lease>, me: &str, now: Timestamp) -> Turn {
    let spec = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let since = spec.renew_time.as_ref().map(|time| now.duration_since(time.0));
    let older = |age: Duration| {
        since.is_none_or(|since| since > SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX))
    };
    if holder == me && !older(RENEW_EVERY) {
        return Turn::Ours;
    }
    if holder != me && !holder.is_empty() && !older(DURATION) {
        return Turn::Theirs;
    }
    let mine = holder == me;
    let metadata = found.map_or_else(
        || ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
        |lease| lease.metadata.clone(),
    );
    let spec = LeaseSpec {
        holder_identity: Some(me.into()),
        lease_duration_seconds: Some(DURATION.as_secs() as i32),
        acquire_time: if mine { spec.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!mine)),
        ..spec
    };
    Turn::Ask(Box::new(Lease { metadata, spec: Some(spec) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn asked(turn: Turn) -> Lease {
        let Turn::Ask(lease) = turn else { panic!("{turn:?}") };
        *lease
    }

    #[test]
    fn one_holds_it_until_it_is_silent() {
        let first = asked(turn(None, "a", at(0)));
        assert_eq!(first.metadata.name.as_deref(), Some(NAME));
        assert_eq!(turn(Some(&first), "a", at(20)), Turn::Ours);
        assert_eq!(turn(Some(&first), "b", at(60)), Turn::Theirs);
        let renewed = asked(turn(Some(&first), "a", at(21)));
        assert_eq!(turn(Some(&renewed), "b", at(61)), Turn::Theirs);
        let taken = asked(turn(Some(&renewed), "b", at(82)));
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("b"), Some(2)));
        assert_eq!(turn(Some(&taken), "a", at(83)), Turn::Theirs);
        assert_eq!(turn(Some(&Lease::default()), "a", at(0)), turn(Some(&Lease::default()), "a", at(0)));
        asked(turn(Some(&Lease::default()), "a", at(0)));
    }
}
