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
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::process::Process;
use super::server::{Question, Subject};
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

/// Serves on an address until the process ends. One that can't be had is tried again and again: a pod network has more
/// to do than to tell of itself, so this is trouble to report, not a reason to end.
pub fn serve(address: SocketAddr, questions: mpsc::Sender<Question>) -> Trouble {
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
        let conversation = |stream| converse(stream, questions.clone());
        places::serve(listener, "the HTTP port", MAX_CONNECTIONS, PATIENCE, conversation).await;
    });
    trouble
}

async fn converse(stream: TcpStream, questions: mpsc::Sender<Question>) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let questions = questions.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &questions).await) }
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

async fn answer(method: &Method, path: &str, questions: &mpsc::Sender<Question>) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        // That this is answered says that the process lives. Peers or an API server that are away are no reason to
        // restart it.
        "/healthz" => plain(StatusCode::OK, "ok".into()),
        "/readyz" => match status(questions).await {
            Ok(status) => ready(&status),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        "/metrics" => match status(questions).await {
            Ok(status) => measured(&status),
            Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics".into()),
    }
}

fn ready(status: &NodeStatus) -> Answer {
    match status.waiting_for.as_slice() {
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

async fn status(questions: &mpsc::Sender<Question>) -> Result<NodeStatus, String> {
    ask(questions, Subject::Status).await
}

/// Asks the agent what the socket's clients ask it, so that all views show the same.
async fn ask<T: DeserializeOwned>(questions: &mpsc::Sender<Question>, subject: Subject) -> Result<T, String> {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        questions.send(Question { subject, answer: sender }).await.ok()?;
        receiver.await.ok()
    };
    match timeout(ANSWER_PATIENCE, asked).await {
        Ok(Some(value)) => {
            serde_json::from_value(value).map_err(|error| format!("the status is odd: {error}"))
        }
        Ok(None) => Err("the agent is stopping".into()),
        Err(_) => Err("the agent is busy and did not answer in time; ask again".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use http_body_util::BodyExt;

    /// An agent that answers with a status, or never.
    fn agent(status: Option<NodeStatus>) -> mpsc::Sender<Question> {
        let (questions, mut asked) = mpsc::channel::<Question>(1);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(question) = asked.recv().await {
                match &status {
                    Some(status) => drop(question.answer.send(serde_json::to_value(status).unwrap())),
                    None => unanswered.push(question),
                }
            }
        });
        questions
    }

    async fn get(path: &str, questions: &mpsc::Sender<Question>) -> (u16, String) {
        let answer = answer(&Method::GET, path, questions).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_says_what_is_missing_and_life_does_not_depend_on_it() {
        let mut status = testing::status();
        let waiting = agent(Some(status.clone()));
        assert_eq!(get("/healthz", &waiting).await, (200, "ok\n".into()));
        let (code, text) = get("/readyz", &waiting).await;
        assert!(code == 503 && text.contains("the peers' first word"), "{code} {text}");
        status.waiting_for.clear();
        assert_eq!(get("/readyz", &agent(Some(status))).await.0, 200);
        let (code, text) = get("/", &waiting).await;
        assert!(code == 404 && text.contains("/metrics"), "{code} {text}");
        assert_eq!(answer(&Method::POST, "/healthz", &waiting).await.status().as_u16(), 405);
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_alive() {
        assert_eq!(get("/healthz", &agent(None)).await.0, 200);
        let (gone, _) = mpsc::channel(1);
        assert_eq!(get("/healthz", &gone).await.0, 200);
        let (code, text) = get("/metrics", &gone).await;
        assert!(code == 503 && text.contains("stopping"), "{code} {text}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_trouble_and_no_end() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let mut trouble = serve(address, agent(None));
        let told = trouble.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(told.contains(&address.to_string()) && told.contains("--http-address"), "{told}");
    }
}
