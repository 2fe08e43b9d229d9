//! A user of an API server, and its requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heliograph_agent::api::crds;
use kube::Client;
use serde_json::Value;

use super::server::http_get;

/// The path of Heliograph's objects.
pub const OURS: &str = "/apis/heliograph.io/v1alpha1";
/// The path of definitions.
pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The timeout of everything that a test waits for.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The switch for progress messages: on with `--nocapture`.
pub static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Prints progress, if asked to.
pub fn progress(text: &str) {
    if VERBOSE.load(Ordering::Relaxed) {
        println!("{text}");
    }
}

/// A user of an API server.
pub struct User(pub Client);

/// The response of an API server.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: String,
    pub warnings: Vec<String>,
}

/// Returns our kinds as they stand in paths.
pub fn plurals() -> impl Iterator<Item = String> {
    crds::crds().into_iter().map(|crd| crd["spec"]["names"]["plural"].as_str().unwrap().to_string())
}

impl User {
    pub async fn ask(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Answer {
        let bytes = body.map(|body| serde_json::to_vec(body).unwrap()).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path).header("Content-Type", kind);
        let response = self.0.send(request.body(bytes.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let warnings = parts.headers.get_all("warning").iter();
        let warnings = warnings.map(|warning| warning.to_str().unwrap().to_string()).collect();
        let body = body.collect_bytes().await.unwrap();
        Answer { code: parts.status.as_u16(), body: String::from_utf8_lossy(&body).into_owned(), warnings }
    }

    /// Applies an object as `kubectl apply --server-side --force-conflicts` does.
    pub async fn apply(&self, folder: &str, object: &Value) -> Answer {
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!("{folder}/{name}?fieldManager=test&force=true&fieldValidation=Strict");
        self.ask("PATCH", &path, "application/apply-patch+yaml", Some(object)).await
    }

    pub async fn put(&self, folder: &str, object: &Value) {
        let answer = self.apply(folder, object).await;
        assert!(answer.code < 300, "{answer:?} to {object}");
    }

    pub async fn merge(&self, path: &str, patch: Value) -> Answer {
        self.ask("PATCH", path, "application/merge-patch+json", Some(&patch)).await
    }

    pub async fn delete(&self, path: &str) {
        let answer = self.ask("DELETE", path, "application/json", None).await;
        assert!(answer.code < 300 || answer.code == 404, "{answer:?}");
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        let text = self.0.request_text(http_get(path)).await.ok()?;
        serde_json::from_str(&text).ok()
    }

    pub async fn define(&self) {
        for crd in crds::crds() {
            let answer = self.apply(CRDS, &crd).await;
            assert!(answer.code < 300, "{answer:?}");
            assert_eq!(answer.warnings, [""; 0], "{}", crd["metadata"]["name"]);
        }
        for plural in plurals() {
            until(&format!("{plural} are served"), async || {
                self.get(&format!("{OURS}/{plural}")).await.is_some()
            })
            .await;
        }
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < deadline, "timeout: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
