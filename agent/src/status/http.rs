//! The HTTP server for the kubelet and Prometheus: `/healthz`, `/readyz` and `/metrics`.
//!
//! Each address has a limit of connections of its own, so that many clients of one address do not block the kubelet's
//! probes at another. A connection carries one request, which is small and must arrive within seconds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::process::Process;
use super::{NodeStatus, listener, metrics};

/// The largest number of connections that are served at the same time on one address.
const MAX_CONNECTIONS: usize = 16;
/// The longest request, in bytes.
const MAX_REQUEST: usize = 8192;
/// The largest number of headers in a request.
const MAX_HEADERS: usize = 64;
/// The longest time for receiving a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time for the agent's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between attempts to listen.
const RETRY: Duration = Duration::from_secs(5);

/// The error that prevents listening on an address; `None`: the agent listens.
pub type ListenError = watch::Receiver<Option<String>>;

/// The channels to the agent's loop. Readiness has a channel of its own: probes are frequent and need one value.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Returns the status.
    pub status: mpsc::Sender<oneshot::Sender<NodeStatus>>,
    /// Returns [`NodeStatus::waiting_for`].
    pub waiting_for: mpsc::Sender<oneshot::Sender<Vec<String>>>,
}

/// Serves on an address until the process ends. Retries if the address is not available: that is a problem to report, and
/// no reason to stop a pod network.
pub fn serve(address: SocketAddr, sources: Sources) -> ListenError {
    let (report, listen_error) = watch::channel(None);
    tokio::spawn(async move {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => {
                    let text = format!(
                        "listen for HTTP on {address}: {error}; free the address, or give another one with \
                         --http-address (`off`: none)"
                    );
                    if report.borrow().as_ref() != Some(&text) {
                        tracing::warn!("{text}");
                    }
                    report.send_replace(Some(text));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        report.send_replace(None);
        // With port 0 the kernel chose the port.
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!("health and metrics on http://{address}");
        let handle = |stream| handle(stream, sources.clone());
        listener::serve(listener, "the HTTP port", MAX_CONNECTIONS, CONNECTION_TIMEOUT, handle).await;
    });
    listen_error
}

async fn handle(stream: TcpStream, sources: Sources) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let sources = sources.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &sources).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_REQUEST)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

type Answer = Response<Full<Bytes>>;

async fn answer(method: &Method, path: &str, sources: &Sources) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        let mut rejected = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into());
        rejected.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return rejected;
    }
    match path {
        // An answer shows that the process is alive. Unreachable peers or API servers are no reason to restart it.
        "/healthz" => plain(StatusCode::OK, "ok".into()),
        "/readyz" => match request(&sources.waiting_for).await {
            Ok(missing) => readiness(&missing),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        "/metrics" => match request(&sources.status).await {
            Ok(status) => metrics_page(&status),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics".into()),
    }
}

fn readiness(missing: &[String]) -> Answer {
    match missing {
        [] => plain(StatusCode::OK, "ready: the first sync is done".into()),
        missing => {
            plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready, waiting for: {}", missing.join("; ")))
        }
    }
}

fn metrics_page(status: &NodeStatus) -> Answer {
    match metrics::render(status, Process::now().as_ref()) {
        Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("encode the metrics: {error}")),
    }
}

fn plain(code: StatusCode, text: String) -> Answer {
    reply(code, "text/plain; charset=utf-8", text + "\n")
}

fn reply(code: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = code;
    reply.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    reply
}

/// Requests a value from the agent's loop. A loop that hangs is not ready.
async fn request<T>(source: &mpsc::Sender<oneshot::Sender<T>>) -> Result<T, String> {
    let (sender, receiver) = oneshot::channel();
    let answer = async {
        source.send(sender).await.ok()?;
        receiver.await.ok()
    };
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err("the agent is stopping".into()),
        Err(_) => Err("the agent is busy and did not answer in time; try again".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use http_body_util::BodyExt;

    /// Returns the channel to an agent that answers with `value`, or never.
    fn source<T: Clone + Send + 'static>(value: Option<T>) -> mpsc::Sender<oneshot::Sender<T>> {
        let (source, mut requests) = mpsc::channel::<oneshot::Sender<T>>(1);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(answer) = requests.recv().await {
                match &value {
                    Some(value) => drop(answer.send(value.clone())),
                    None => unanswered.push(answer),
                }
            }
        });
        source
    }

    /// Returns an agent that answers requests for readiness, and no others.
    fn waiting_for(missing: &[&str]) -> Sources {
        let missing = missing.iter().map(|condition| condition.to_string()).collect();
        Sources { status: source(None), waiting_for: source(Some(missing)) }
    }

    async fn get(path: &str, sources: &Sources) -> (u16, String) {
        let answer = answer(&Method::GET, path, sources).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_lists_what_is_missing_and_liveness_does_not_depend_on_it() {
        let waiting = waiting_for(&["the neighbors' End-of-RIB"]);
        assert_eq!(get("/healthz", &waiting).await, (200, "ok\n".into()));
        let (code, text) = get("/readyz", &waiting).await;
        assert!(code == 503 && text.contains("the neighbors' End-of-RIB"), "{code} {text}");
        assert_eq!(get("/readyz", &waiting_for(&[])).await.0, 200);
        let (code, text) = get("/", &waiting).await;
        assert!(code == 404 && text.contains("/metrics"), "{code} {text}");
        assert_eq!(answer(&Method::POST, "/healthz", &waiting).await.status().as_u16(), 405);
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_status() {
        let sources = Sources { status: source(Some(testing::status())), waiting_for: source(None) };
        let (code, text) = get("/metrics", &sources).await;
        assert!(code == 200 && text.contains("heliograph_intent_changes_total 3"), "{code} {text}");
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_alive() {
        assert_eq!(get("/healthz", &waiting_for(&[])).await.0, 200);
        let gone = Sources { status: mpsc::channel(1).0, waiting_for: mpsc::channel(1).0 };
        assert_eq!(get("/healthz", &gone).await.0, 200);
        for path in ["/metrics", "/readyz"] {
            let (code, text) = get(path, &gone).await;
            assert!(code == 503 && text.contains("stopping"), "{code} {text}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_a_problem_and_no_reason_to_stop() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut listen_error = serve(address, waiting_for(&[]));
        let error = listen_error.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(error.contains(&address.to_string()) && error.contains("--http-address"), "{error}");
    }
}
