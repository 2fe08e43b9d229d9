//! A proxy between an agent and its API server: forwards requests, or answers them itself.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;

/// A fault: the proxy does not forward requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It answers with this code.
    Answer(u16),
    /// It never answers.
    Silence,
}

/// A proxy between an agent and its API server.
pub struct Proxy {
    fault: Arc<Mutex<Option<Fault>>>,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts a proxy to a client's API server, with that client's rights.
    pub async fn start(client: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u, namespace: heliograph-system}}}}]\n"
        );
        fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        let fault = Arc::new(Mutex::new(None));
        let faulty = fault.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, fault) = (client.clone(), faulty.clone());
                let service = service_fn(move |request| {
                    let (client, fault) = (client.clone(), *fault.lock().unwrap());
                    answer(client, fault, request)
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { fault, folder }
    }

    /// Returns a kubeconfig of the proxy.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Sets the fault; without one, requests are forwarded.
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }
}

type Answer = Response<Full<Bytes>>;

/// Answers a request. An error closes the connection, as a stopped API server does.
async fn answer(
    client: Client,
    fault: Option<Fault>,
    request: Request<Incoming>,
) -> Result<Answer, kube::Error> {
    match fault {
        None => forward(client, request).await,
        Some(Fault::Answer(code)) => Ok(status(code)),
        Some(Fault::Silence) => std::future::pending().await,
    }
}

async fn forward(client: Client, request: Request<Incoming>) -> Result<Answer, kube::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut request = Request::new(kube::client::Body::from(body.to_vec()));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
    for name in ["content-type", "accept"] {
        if let Some(value) = parts.headers.get(name) {
            request.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    let (parts, body) = client.send(request).await?.into_parts();
    Ok(Response::from_parts(parts, Full::new(body.collect_bytes().await?)))
}

fn status(code: u16) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": "a fault of the test", "reason": "Test"});
    let answer = Response::builder().status(code).header("content-type", "application/json");
    answer.body(Full::new(status.to_string().into())).unwrap()
}
