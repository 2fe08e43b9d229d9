//! Asks the API server, counts that, and says what it means when it doesn't do something.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::store::kubernetes::failure::Failure;

/// A request without an answer has failed after this time.
const ANSWER: Duration = Duration::from_secs(10);

/// Something that the API server did not do.
#[derive(Debug)]
pub struct Trouble {
    /// What, in words.
    pub failure: Failure,
    /// What it is good to do.
    pub meaning: Meaning,
}

/// What a failure means for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing else will do either now.
    Away,
    /// The object, or its kind, isn't there.
    Missing,
    /// Somebody else was faster (409).
    Overtaken,
    /// This one won't do.
    Refused,
}

impl Trouble {
    /// The same, taken for a reason not to do anything else either for a while.
    pub fn of_everything(self) -> Self {
        Self { meaning: Meaning::Away, ..self }
    }
}

/// All requests of a process that tell the cluster how it stands; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    failures: AtomicU64,
}

impl Requests {
    /// Writes so far, done or not.
    pub fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Relaxed)
    }

    /// Requests so far that were refused or not answered.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Writes something; `what` it is, in words.
    ///
    /// # Errors
    /// The API server doesn't answer in time, or not as it should.
    pub async fn write<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.read(what, request).await
    }

    /// Reads something; `what` it is, in words.
    ///
    /// # Errors
    /// The API server doesn't answer in time, or not as it should.
    pub async fn read<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        let trouble = match timeout(ANSWER, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Trouble { meaning: meaning(&error), failure: Failure::of(what, &error) },
            Err(_) => Trouble { meaning: Meaning::Away, failure: Failure::silent(what, ANSWER) },
        };
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        Err(trouble)
    }
}

fn meaning(error: &kube::Error) -> Meaning {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Meaning::Missing,
            409 => Meaning::Overtaken,
            401 | 429 | 500.. => Meaning::Away,
            _ => Meaning::Refused,
        },
        _ => Meaning::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[tokio::test]
    async fn failures_are_counted_and_have_a_meaning() {
        let requests = Requests::default();
        let cases = [
            (401, Meaning::Away),
            (403, Meaning::Refused),
            (404, Meaning::Missing),
            (409, Meaning::Overtaken),
            (422, Meaning::Refused),
            (429, Meaning::Away),
            (500, Meaning::Away),
            (503, Meaning::Away),
        ];
        for (code, expected) in cases {
            let status = serde_json::from_value::<Status>(serde_json::json!({"code": code})).unwrap();
            let answer = async { Err::<(), _>(kube::Error::Api(status.into())) };
            assert_eq!(requests.write("try", answer).await.unwrap_err().meaning, expected, "{code}");
        }
        requests.read("look", async { Ok(()) }).await.unwrap();
        requests.write("try", async { Ok(()) }).await.unwrap();
        assert_eq!((requests.writes(), requests.failures()), (9, 8));
    }
}
