//! Errors of requests to the API server, with a remedy.

use std::fmt;
use std::time::Duration;

use kube::core::Status;

/// The user of a request without a token.
const ANONYMOUS: &str = "system:anonymous";
/// The longest time that a `Retry-After` of the API server is obeyed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The request, the answer or error, and the remedy.
    pub message: String,
    /// The pause that the API server asked for.
    pub retry_after: Option<Duration>,
    /// The consequence for the caller.
    pub kind: ErrorKind,
}

/// The consequence of an error for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There was no answer, or one of a server that cannot do its work (5xx). After the outage it may have another
    /// history than before.
    Unavailable,
    /// The credentials are not valid (401).
    Unauthorized,
    /// There were too many requests (429).
    TooMany,
    /// The resource version is too old for a watch (410): a new list is needed.
    Expired,
    /// The resource does not exist, for example because its CustomResourceDefinition is missing (404).
    NotFound,
    /// Another client changed the object first (409).
    Conflict,
    /// The request is invalid or not permitted (other 4xx). A retry fails until somebody changes something.
    Rejected,
    /// The request may succeed later: a timeout (408).
    Temporary,
}

impl ErrorKind {
    fn of(code: u16) -> Self {
        match code {
            500.. => Self::Unavailable,
            410 => Self::Expired,
            401 => Self::Unauthorized,
            404 => Self::NotFound,
            408 => Self::Temporary,
            409 => Self::Conflict,
            429 => Self::TooMany,
            400.. => Self::Rejected,
            _ => Self::Temporary,
        }
    }

    /// Returns whether a retry fails until somebody changes the request's permissions or the API server's kinds.
    pub fn is_permanent(self) -> bool {
        matches!(self, Self::Unauthorized | Self::NotFound | Self::Rejected)
    }

    /// Returns whether other requests would fail, too. An error of any other kind is about one object.
    pub fn stops_all(self) -> bool {
        matches!(self, Self::Unavailable | Self::Unauthorized | Self::TooMany)
    }
}

impl ApiError {
    /// Returns the error of a request (`what`) without an answer within a time.
    pub fn timeout(what: &str, after: Duration) -> Self {
        let after = after.as_secs();
        Self::unavailable(format!(
            "{what}: no answer from the API server within {after} s; it is tried again"
        ))
    }

    /// Returns the error of a request (`what`) as the client reports it.
    pub fn of(what: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(what, status),
            other => Self::unavailable(format!(
                "{what}: the API server can't be reached: {}; it is tried again",
                chain(other)
            )),
        }
    }

    /// Returns the error of a request (`what`) that the API server answered with an error status.
    fn answered(what: &str, status: &Status) -> Self {
        let remedy = match status.code {
            // Where anonymous requests are allowed, one without a token is not answered 401.
            401 | 403 if status.message.contains(ANONYMOUS) => {
                "the request had no token: check that the pod has its ServiceAccount's token \
                 (automountServiceAccountToken), or the kubeconfig a user; it is tried again"
            }
            401 => {
                "the token is not valid: check that the agent's ServiceAccount exists and its token is current; \
                 it is tried again"
            }
            403 => "grant it in the agent's ClusterRole or Role; it is tried again",
            404 => {
                "the kind is not defined: apply Heliograph's CustomResourceDefinitions (heliograph crds | \
                 kubectl apply -f -); it is tried again"
            }
            410 => "the list is read anew",
            _ => "it is tried again",
        };
        let answer = if status.message.is_empty() { &status.reason } else { &status.message };
        let seconds = status.details.as_ref().map(|details| details.retry_after_seconds).unwrap_or_default();
        Self {
            message: format!("{what}: the API server answered {}: {}; {remedy}", status.code, answer.trim()),
            retry_after: (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)).min(MAX_RETRY_AFTER)),
            kind: ErrorKind::of(status.code),
        }
    }

    fn unavailable(message: String) -> Self {
        Self { message, retry_after: None, kind: ErrorKind::Unavailable }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// Returns an error's message with those of its sources, each text once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !message.contains(&more) {
            message = format!("{message}: {more}");
        }
        next = source.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str, retry: u32) -> Status {
        let status =
            serde_json::json!({"code": code, "message": message, "details": {"retryAfterSeconds": retry}});
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn answers_have_a_remedy_and_a_kind() {
        use ErrorKind::{
            Conflict, Expired, NotFound, Rejected, Temporary, TooMany, Unauthorized, Unavailable,
        };
        let cases = [
            (400, "unable to parse requirement", 0, "tried again", None, Rejected),
            (401, "Unauthorized", 0, "token", None, Unauthorized),
            (403, "bgppeers is forbidden", 0, "ClusterRole", None, Rejected),
            (
                403,
                "nodes is forbidden: User \"system:anonymous\" cannot list",
                0,
                "had no token",
                None,
                Rejected,
            ),
            (404, "the server could not find the requested resource", 0, "heliograph crds", None, NotFound),
            (408, "timeout", 0, "tried again", None, Temporary),
            (409, "the object has been modified", 0, "tried again", None, Conflict),
            (410, "too old resource version", 0, "anew", None, Expired),
            (429, "too many requests", 7, "tried again", Some(7), TooMany),
            (429, "too many requests", 4000, "tried again", Some(60), TooMany),
            (500, "etcdserver: request timed out", 0, "tried again", None, Unavailable),
        ];
        for (code, message, retry, remedy, retry_after, kind) in cases {
            let error = ApiError::answered("list bgppeers", &status(code, message, retry));
            for part in ["list bgppeers", &code.to_string(), message, remedy] {
                assert!(error.message.contains(part), "{part} in {}", error.message);
            }
            assert_eq!((error.retry_after, error.kind), (retry_after.map(Duration::from_secs), kind));
            assert_eq!(error.kind.is_permanent(), matches!(code, 400 | 401 | 403 | 404), "{code}");
            assert_eq!(error.kind.stops_all(), matches!(code, 401 | 429 | 500), "{code}");
        }
    }
}
