//! Requests to the API server: counted, with a timeout, and with their errors classified.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::apiserver::ApiError;

/// The longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A failed request.
#[derive(Debug)]
pub struct RequestError {
    /// The text of the error, and the pause that the API server demands.
    pub failure: ApiError,
    /// The class of the error.
    pub class: ErrorClass,
}

/// The classes of errors, by what they imply for other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Other requests would fail, too: no answer, 401, 429, 5xx.
    Unavailable,
    /// The object, or its kind, does not exist (404).
    NotFound,
    /// Another client changed the object first (409).
    Conflict,
    /// The API server rejects this request: 403, 422 and others.
    Rejected,
}

impl RequestError {
    /// Returns the error as one that stops all requests for a while.
    pub fn into_unavailable(self) -> Self {
        Self { class: ErrorClass::Unavailable, ..self }
    }
}

/// The requests of a status writer. Clones share their counters.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    writes: AtomicU64,
    failures: AtomicU64,
}

impl Requests {
    /// Returns the number of write requests, failed ones included.
    pub fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that were rejected or not answered.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Sends a write request. `operation` is its name in errors.
    ///
    /// # Errors
    /// The API server returns an error, or does not answer in time.
    pub async fn write<T>(
        &self,
        operation: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, RequestError> {
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.read(operation, request).await
    }

    /// Sends a read request. `operation` is its name in errors.
    ///
    /// # Errors
    /// The API server returns an error, or does not answer in time.
    pub async fn read<T>(
        &self,
        operation: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, RequestError> {
        let error = match timeout(TIMEOUT, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => RequestError { class: class(&error), failure: ApiError::of(operation, &error) },
            Err(_) => RequestError {
                class: ErrorClass::Unavailable,
                failure: ApiError::timeout(operation, TIMEOUT),
            },
        };
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        Err(error)
    }
}

fn class(error: &kube::Error) -> ErrorClass {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => ErrorClass::NotFound,
            409 => ErrorClass::Conflict,
            401 | 429 | 500.. => ErrorClass::Unavailable,
            _ => ErrorClass::Rejected,
        },
        _ => ErrorClass::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[tokio::test]
    async fn failures_are_counted_and_classified() {
        let requests = Requests::default();
        let cases = [
            (401, ErrorClass::Unavailable),
            (403, ErrorClass::Rejected),
            (404, ErrorClass::NotFound),
            (409, ErrorClass::Conflict),
            (422, ErrorClass::Rejected),
            (429, ErrorClass::Unavailable),
            (500, ErrorClass::Unavailable),
            (503, ErrorClass::Unavailable),
        ];
        for (code, expected) in cases {
            let status = serde_json::from_value::<Status>(serde_json::json!({"code": code})).unwrap();
            let answer = async { Err::<(), _>(kube::Error::Api(status.into())) };
            assert_eq!(requests.write("try", answer).await.unwrap_err().class, expected, "{code}");
        }
        requests.read("look", async { Ok(()) }).await.unwrap();
        requests.write("try", async { Ok(()) }).await.unwrap();
        assert_eq!((requests.writes(), requests.failures()), (9, 8));
    }
}
