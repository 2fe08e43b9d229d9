//! The status over HTTP, for the kubelet and Prometheus: `/healthz`, `/readyz` and `/metrics`.
//!
//! Each address has its own few places, so that a crowd at the one Prometheus uses keeps no probe of the kubelet's
//! waiting at the other. A request is small, read within seconds, and one connection carries one.

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
use super::{NodeStatus, metrics, places};

/// How many are served at the same time on one address; more wait.
const MAX_CONNECTIONS: usize = 16;
/// The longest request in octets, and its most headers.
const MAX_REQUEST: usize = 8192;
const MAX_HEADERS: usize = 64;
/// How long a client may take for its request, the agent for its answer, and both together with taking it.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between attempts to listen.
const AGAIN: Duration = Duration::from_secs(5);

/// What keeps an address from being listened on, in words, until nothing does.
pub type Trouble = watch::Receiver<Option<String>>;

/// Whom to ask. Readiness has a way of its own: probes are many and want one thing.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Says how the node stands.
    pub status: mpsc::Sender<oneshot::Sender<NodeStatus>>,
    /// Says what the first sync still waits for, as [`NodeStatus::waiting_for`].
    pub waiting_for: mpsc::Sender<oneshot::Sender<Vec<String>>>,
}

/// Serves on an address until the process ends. One that can't be had is tried again and again: a pod network has more
/// to do than to tell of itself, so this is trouble to report, not a reason to end.
pub fn serve(address: SocketAddr, sources: Sources) -> Trouble {
    let (tell, trouble) = watch::channel(None);
    tokio::spawn(async move {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => {
                    let text = format!(
                        "nobody can ask this agent on http://{address}: {error}; free the address, or give another \
                         one with --http-address (`off`: none)"
                    );
                    if tell.borrow().as_ref() != Some(&text) {
                        tracing::warn!("{text}");
                    }
                    tell.send_replace(Some(text));
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        tell.send_replace(None);
        // The port may have been left to the kernel.
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!("health and metrics on http://{address}");
        let conversation = |stream| converse(stream, sources.clone());
        places::serve(listener, "the HTTP port", MAX_CONNECTIONS, PATIENCE, conversation).await;
    });
    trouble
}

async fn converse(stream: TcpStream, sources: Sources) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let sources = sources.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &sources).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_PATIENCE)
        .max_buf_size(MAX_REQUEST)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

type Answer = Response<Full<Bytes>>;

async fn answer(method: &Method, path: &str, sources: &Sources) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        // That this is answered says that the process lives. Peers or an API server that are away are no reason to
        // restart it.
        "/healthz" => plain(StatusCode::OK, "ok".into()),
        "/readyz" => match ask(&sources.waiting_for).await {
            Ok(missing) => ready(&missing),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        "/metrics" => match ask(&sources.status).await {
            Ok(status) => measured(&status),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics".into()),
    }
}

fn ready(missing: &[String]) -> Answer {
    match missing {
        [] => plain(StatusCode::OK, "ready: the first sync is done".into()),
        missing => {
            plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready, waiting for: {}", missing.join("; ")))
        }
    }
}

fn measured(status: &NodeStatus) -> Answer {
    match metrics::render(status, Process::now().as_ref()) {
        Ok(text) => reply(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("can't write the metrics: {error}")),
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

/// Asks the agent, so that one that hangs is not ready.
async fn ask<T>(source: &mpsc::Sender<oneshot::Sender<T>>) -> Result<T, String> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        source.send(answer).await.ok()?;
        answered.await.ok()
    };
    match timeout(ANSWER_PATIENCE, asked).await {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err("the agent is stopping".into()),
        Err(_) => Err("the agent is busy and did not answer in time; ask again".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use http_body_util::BodyExt;

    /// An agent that answers with this, or never.
    fn source<T: Clone + Send + 'static>(value: Option<T>) -> mpsc::Sender<oneshot::Sender<T>> {
        let (source, mut asked) = mpsc::channel::<oneshot::Sender<T>>(1);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(answer) = asked.recv().await {
                match &value {
                    Some(value) => drop(answer.send(value.clone())),
                    None => unanswered.push(answer),
                }
            }
        });
        source
    }

    /// Who is asked whether it is ready is asked for nothing else.
    fn that_waits_for(missing: &[&str]) -> Sources {
        let missing = missing.iter().map(|words| words.to_string()).collect();
        Sources { status: source(None), waiting_for: source(Some(missing)) }
    }

    async fn get(path: &str, sources: &Sources) -> (u16, String) {
        let answer = answer(&Method::GET, path, sources).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing_and_life_does_not_depend_on_it() {
        let waiting = that_waits_for(&["the peers' first word"]);
        assert_eq!(get("/healthz", &waiting).await, (200, "ok\n".into()));
        let (code, text) = get("/readyz", &waiting).await;
        assert!(code == 503 && text.contains("the peers' first word"), "{code} {text}");
        assert_eq!(get("/readyz", &that_waits_for(&[])).await.0, 200);
        let (code, text) = get("/", &waiting).await;
        assert!(code == 404 && text.contains("/metrics"), "{code} {text}");
        assert_eq!(answer(&Method::POST, "/healthz", &waiting).await.status().as_u16(), 405);
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_status() {
        let sources = Sources { status: source(Some(testing::status())), waiting_for: source(None) };
        let (code, text) = get("/metrics", &sources).await;
        assert!(code == 200 && text.contains("heliograph_store_changes_total 3"), "{code} {text}");
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_alive() {
        assert_eq!(get("/healthz", &that_waits_for(&[])).await.0, 200);
        let gone = Sources { status: mpsc::channel(1).0, waiting_for: mpsc::channel(1).0 };
        assert_eq!(get("/healthz", &gone).await.0, 200);
        for path in ["/metrics", "/readyz"] {
            let (code, text) = get(path, &gone).await;
            assert!(code == 503 && text.contains("stopping"), "{code} {text}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_trouble_and_no_end() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut trouble = serve(address, that_waits_for(&[]));
        let told = trouble.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(told.contains(&address.to_string()) && told.contains("--http-address"), "{told}");
    }
}
