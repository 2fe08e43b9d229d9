//! What went wrong with the API server, in words that say what to do.

use std::time::Duration;

use kube::core::Status;

/// Who we are to an API server without a token.
const ANONYMOUS: &str = "system:anonymous";
/// How long the API server may make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Something that the API server, or the way to it, did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was tried, what came back, and what to do.
    pub words: String,
    /// How long the API server asked us to wait.
    pub wait: Option<Duration>,
    /// The version that we asked for changes since is no longer kept (410).
    pub expired: bool,
    /// The API server has the answer and won't give it: what is asked, or who asks, isn't to its liking. Asking again
    /// changes nothing.
    pub refused: bool,
    /// The API server doesn't know the kind (404).
    pub undefined: bool,
    /// Nobody answered, or one that can't do its work (5xx): when it is back it may be another than it was.
    pub away: bool,
}

impl Failure {
    /// No answer in time.
    pub fn silent(what: &str, after: Duration) -> Self {
        Self::new(format!(
            "{what}: no answer from the API server within {} s; it is tried again",
            after.as_secs()
        ))
    }

    /// An error of the client.
    pub fn of(what: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(what, status),
            other => Self::new(format!(
                "{what}: the API server can't be reached: {}; it is tried again",
                chain(other)
            )),
        }
    }

    /// The API server said no.
    pub fn answered(what: &str, status: &Status) -> Self {
        let remedy = match status.code {
            // Where anonymous requests are allowed, one without a token isn't answered 401.
            401 | 403 if status.message.contains(ANONYMOUS) => {
                "our request bore no token: see that the pod has its ServiceAccount's token \
                 (automountServiceAccountToken), or the kubeconfig a user; it is tried again"
            }
            401 => {
                "it refuses our token: see that the agent's ServiceAccount is there and its token is current; \
                 it is tried again"
            }
            403 => "grant it in the agent's ClusterRole or Role; it is tried again",
            404 => {
                "it doesn't know this kind: apply Heliograph's CustomResourceDefinitions (heliograph crds | \
                 kubectl apply -f -); it is tried again"
            }
            410 => "the list is read anew",
            _ => "it is tried again",
        };
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        let wait = status.details.as_ref().map(|details| details.retry_after_seconds).unwrap_or_default();
        Self {
            words: format!("{what}: the API server answered {}: {}; {remedy}", status.code, said.trim()),
            wait: (wait > 0).then(|| Duration::from_secs(u64::from(wait)).min(LONGEST_WAIT)),
            expired: status.code == 410,
            // Conflicts, old versions and too many requests pass.
            refused: matches!(status.code, 400..=499) && !matches!(status.code, 408 | 409 | 410 | 429),
            undefined: status.code == 404,
            away: status.code >= 500,
        }
    }

    fn new(words: String) -> Self {
        Self { words, wait: None, expired: false, refused: false, undefined: false, away: true }
    }
}

/// An error with all that is behind it, without saying anything twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = source.source();
    }
    words
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
    fn answers_say_what_to_do() {
        let cases = [
            (400, "unable to parse requirement", 0, "tried again", None, false),
            (401, "Unauthorized", 0, "token", None, false),
            (403, "bgppeers is forbidden", 0, "ClusterRole", None, false),
            (
                403,
                "nodes is forbidden: User \"system:anonymous\" cannot list",
                0,
                "bore no token",
                None,
                false,
            ),
            (404, "the server could not find the requested resource", 0, "heliograph crds", None, false),
            (410, "too old resource version", 0, "anew", None, true),
            (429, "too many requests", 7, "tried again", Some(7), false),
            (429, "too many requests", 4000, "tried again", Some(60), false),
            (500, "etcdserver: request timed out", 0, "tried again", None, false),
        ];
        for (code, message, retry, remedy, wait, expired) in cases {
            let failure = Failure::answered("list bgppeers", &status(code, message, retry));
            for word in ["list bgppeers", &code.to_string(), message, remedy] {
                assert!(failure.words.contains(word), "{word} in {}", failure.words);
            }
            assert_eq!((failure.wait, failure.expired), (wait.map(Duration::from_secs), expired));
            assert_eq!((failure.undefined, failure.away), (code == 404, code == 500));
            assert_eq!(failure.refused, matches!(code, 400 | 401 | 403 | 404), "{code}");
        }
    }
}
