//! The agent's unix socket. A connection carries one request, a JSON object in one line, and its answer, a JSON object.
//!
//! `{"get":"status"}` or `{"get":"routes"}`; the answer is `{"ok": DOCUMENT}` or `{"error": TEXT}`. Only root can connect.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{SCHEMA_VERSION, listener};

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// The name of the file that a running agent holds locked.
const LOCK_NAME: &str = "agent.lock";
/// The longest request, in bytes.
const MAX_REQUEST: u64 = 1024;
/// The largest number of connections that are served at the same time.
pub const MAX_CONNECTIONS: usize = 16;
/// The longest time for each of: receiving the request, making the answer or a part of it, sending that.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time for a connection: a list of a million routes takes several seconds.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The subject of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The [`super::NodeStatus`].
    Status,
    /// All paths: a [`super::List`] of [`super::RouteStatus`].
    Routes,
}

/// A request as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The subject.
    pub get: Subject,
}

/// A request with the channel for its answer.
#[derive(Debug)]
pub struct Query {
    /// The subject.
    pub subject: Subject,
    /// The channel for the answer.
    pub answer: oneshot::Sender<Answer>,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// A document.
    Document(Value),
    /// A document that is a list, in parts: a list of all routes is too large to be in memory at once.
    List(mpsc::Receiver<Part>),
}

/// A part of a list.
#[derive(Debug)]
pub enum Part {
    /// Some items.
    Items(Vec<Value>),
    /// The end of the list. Without it the list is not complete.
    End,
}

/// A failure to get the run directory or its socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent uses the run directory.
    #[error(
        "another heliograph runs with {run_dir}: stop it first, or give this one its own --run-dir (one agent a node)"
    )]
    InUse {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// The kernel returned an error.
    #[error(
        "{operation} {path}: {source}; the agent needs to write there: run it as root or give another --run-dir"
    )]
    Io {
        /// The operation that was tried.
        operation: &'static str,
        /// Its object.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io { operation, path: path.into(), source }
}

/// A run directory that this process holds. No other agent can take it; a crash frees it at once.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Takes the run directory, and makes it if necessary.
    ///
    /// # Errors
    /// [`SocketError::InUse`] if another agent holds it.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        fs::create_dir_all(path).map_err(failed("make the run directory", path))?;
        let lock = path.join(LOCK_NAME);
        let file = File::options().create(true).write(true).truncate(false).open(&lock);
        let file = file.map_err(failed("open the lock", &lock))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { path: path.into(), _lock: held }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SocketError::InUse { run_dir: path.into() }),
            Err((_, errno)) => Err(failed("lock", &lock)(errno.into())),
        }
    }

    /// Listens on the socket, and sends each request to `queries`. Replaces the socket of a former agent.
    ///
    /// # Errors
    /// [`SocketError::Io`]
    pub fn serve(&self, queries: mpsc::Sender<Query>) -> Result<(), SocketError> {
        let path = self.path.join(SOCKET_NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the former socket", &path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("listen on", &path))?;
        let only_ours = Permissions::from_mode(0o600);
        fs::set_permissions(&path, only_ours).map_err(failed("set the mode of", &path))?;
        tokio::spawn(async move {
            let handle = |stream| serve(stream, queries.clone());
            listener::serve(listener, "the agent's socket", MAX_CONNECTIONS, TIME_LIMIT, handle).await;
        });
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Clients get "no such file" instead of "connection refused". The lock file stays: removing it would race.
        let _ = fs::remove_file(self.path.join(SOCKET_NAME));
    }
}

async fn serve(stream: UnixStream, queries: mpsc::Sender<Query>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    timeout(TIMEOUT, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(request, queries).await,
        Err(error) => Err(format!("not a request: {error}; send {{\"get\":\"status\"}}")),
    };
    match answer {
        Ok(Answer::Document(value)) => write(&mut writer, &json!({"ok": value})).await?,
        Ok(Answer::List(parts)) => write_list(&mut writer, parts).await?,
        Err(error) => write(&mut writer, &json!({"error": error})).await?,
    }
    timeout(TIMEOUT, writer.write_all(b"\n")).await??;
    writer.shutdown().await
}

async fn write(writer: &mut OwnedWriteHalf, value: &Value) -> io::Result<()> {
    timeout(TIMEOUT, writer.write_all(&serde_json::to_vec(value)?)).await?
}

/// Writes a list as its parts arrive.
///
/// # Errors
/// The client does not read, a part is late, or the list ends before its [`Part::End`]: then the client gets no valid JSON.
async fn write_list(writer: &mut OwnedWriteHalf, mut parts: mpsc::Receiver<Part>) -> io::Result<()> {
    let mut text = format!("{{\"ok\":{{\"schemaVersion\":{SCHEMA_VERSION},\"items\":[").into_bytes();
    let mut first = true;
    loop {
        match timeout(TIMEOUT, parts.recv()).await? {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(Part::End) => text.extend(b"]}}"),
            Some(Part::Items(items)) => {
                for item in items {
                    if !std::mem::take(&mut first) {
                        text.push(b',');
                    }
                    serde_json::to_writer(&mut text, &item)?;
                }
                timeout(TIMEOUT, writer.write_all(&text)).await??;
                text.clear();
                continue;
            }
        }
        return timeout(TIMEOUT, writer.write_all(&text)).await?;
    }
}

/// Returns the answer of the agent, or an error for the client.
async fn answer(request: Request, queries: mpsc::Sender<Query>) -> Result<Answer, String> {
    let (sender, receiver) = oneshot::channel();
    let query = Query { subject: request.get, answer: sender };
    let answer = async {
        queries.send(query).await.ok()?;
        receiver.await.ok()
    };
    match timeout(TIMEOUT, answer).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err("the agent is stopping".into()),
        Err(_) => Err("the agent is busy and did not answer in time; try again".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::client::{RequestError, request};
    use crate::status::{Document, List};
    use std::io::{Read, Write};

    /// Serves this answer, or none, until dropped.
    fn served(folder: &Path, answer: Option<Value>) -> (RunDir, tokio::task::JoinHandle<()>) {
        let run_dir = RunDir::take(folder).unwrap();
        let (sender, mut queries) = mpsc::channel(1);
        run_dir.serve(sender).unwrap();
        let task = tokio::spawn(async move {
            while let Some(query) = queries.recv().await {
                if let Some(answer) = &answer {
                    let _ = query.answer.send(Answer::Document(answer.clone()));
                }
            }
        });
        (run_dir, task)
    }

    async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    fn raw(folder: &Path, bytes: &[u8]) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(folder.join(SOCKET_NAME)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    fn document(number: u32) -> Value {
        json!(Document::new(List { items: vec![number] }))
    }

    fn get(folder: &Path) -> Result<Document<List<u32>>, RequestError> {
        request(folder, Subject::Status)
    }

    #[tokio::test]
    async fn valid_requests_get_an_answer_and_invalid_ones_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let (_run_dir, _task) = served(&path, Some(document(1)));
        let mode = fs::metadata(path.join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        aside(move || {
            assert_eq!(json!(get(&path).unwrap()), json!({"schemaVersion": 1, "items": [1]}));
            for invalid in [
                &b"hello\n"[..],
                b"{\"get\":\"everything\"}\n",
                b"{\"get\":\"status\",\"x\":1}\n",
                &[b'x'; 5000],
            ] {
                let answer = raw(&path, invalid);
                // Bytes beyond the limit may also end in a reset.
                assert!(answer.contains("not a request") || invalid.len() > 4000, "{answer}");
            }
            let other = request::<List<String>>(&path, Subject::Status);
            assert!(matches!(other, Err(RequestError::Malformed { .. })));
        })
        .await;
    }

    #[tokio::test]
    async fn a_document_of_another_version_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let (_run_dir, _task) = served(&path, Some(json!({"schemaVersion": 2, "other": []})));
        let error = aside(move || get(&path)).await.unwrap_err();
        assert!(matches!(error, RequestError::Version { found: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn clients_that_send_nothing_do_not_block_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let (_run_dir, _task) = served(&path, Some(document(1)));
        aside(move || {
            let connect = || std::os::unix::net::UnixStream::connect(path.join(SOCKET_NAME)).unwrap();
            let _silent: Vec<_> = (0..MAX_CONNECTIONS - 1).map(|_| connect()).collect();
            assert_eq!(get(&path).unwrap().content.items, [1]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_run_directory_has_one_agent_and_is_free_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = RunDir::take(&path).unwrap();
        let error = RunDir::take(&path).unwrap_err().to_string();
        assert!(error.contains("another heliograph runs"), "{error}");
        drop(first);
        // A socket that was left behind, as after kill -9.
        drop(std::os::unix::net::UnixListener::bind(path.join(SOCKET_NAME)).unwrap());
        let (_run_dir, _task) = served(&path, Some(document(2)));
        let answer = aside(move || get(&path)).await.unwrap();
        assert_eq!(answer.content.items, [2]);
    }
}
