//! The client of the API server: requests with a timeout, counted, and with their errors classified.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{ApiError, pages};

/// The longest time for an answer, unless another one is set.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The client of the API server. Clones share their counters.
#[derive(Clone)]
pub struct ApiClient {
    client: Client,
    counters: Arc<Counters>,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    writes: AtomicU64,
    failures: AtomicU64,
}

impl ApiClient {
    /// Returns a client that sends its requests by `client`, with counters of its own.
    pub fn new(client: Client) -> Self {
        Self { client, counters: Arc::default(), timeout: TIMEOUT }
    }

    /// Sets the longest time for an answer.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns the namespace of the pod, or that of the kubeconfig.
    pub fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Returns the objects of a type: all, if it has namespaces.
    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Returns the objects of a type in a namespace.
    pub fn in_namespace<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Returns the untyped objects of a kind: an invalid one does not hide the others of a list.
    pub fn untyped(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), kind)
    }

    /// Returns the number of write requests, failed ones included.
    pub fn writes(&self) -> u64 {
        self.counters.writes.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that were rejected or not answered.
    pub fn failures(&self) -> u64 {
        self.counters.failures.load(Ordering::Relaxed)
    }

    /// Sends a write request. `what` is its name in errors.
    ///
    /// # Errors
    /// The API server returns an error, or does not answer in time.
    pub async fn write<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.read(what, request).await
    }

    /// Sends a read request. `what` is its name in errors.
    ///
    /// # Errors
    /// The API server returns an error, or does not answer in time.
    pub async fn read<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApiError> {
        let error = match timeout(self.timeout, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => ApiError::of(what, &error),
            Err(_) => ApiError::timeout(what, self.timeout),
        };
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        Err(error)
    }

    /// Reads all objects, page by page, and calls a function for each. `what` is the name of the requests in errors. Returns
    /// the resource version of the list.
    ///
    /// # Errors
    /// A request fails.
    pub async fn list<K: Clone + DeserializeOwned + Debug>(
        &self,
        what: &str,
        objects: &Api<K>,
        params: ListParams,
        mut each: impl FnMut(K),
    ) -> Result<String, ApiError> {
        let mut page = pages::first(params);
        loop {
            let list = self.read(what, objects.list(&page)).await?;
            list.items.into_iter().for_each(&mut each);
            if !pages::next(&mut page, &list.metadata) {
                return Ok(list.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("counters", &self.counters).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::ErrorKind;
    use kube::core::Status;

    #[tokio::test]
    async fn writes_and_failures_are_counted() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("unused"))
        });
        let client = ApiClient::new(Client::new(service, "default"));
        let status = serde_json::from_value::<Status>(serde_json::json!({"code": 409})).unwrap();
        let answer = async { Err::<(), _>(kube::Error::Api(status.into())) };
        assert_eq!(client.write("try", answer).await.unwrap_err().kind, ErrorKind::Conflict);
        let quick = client.clone().timeout(Duration::from_millis(1));
        let error = quick.read("look", std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        client.read("look", async { Ok(()) }).await.unwrap();
        client.write("try", async { Ok(()) }).await.unwrap();
        assert_eq!((client.writes(), client.failures()), (2, 2));
    }
}
