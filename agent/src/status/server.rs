//! The agent's unix socket: one question a connection, a JSON object in one line, answered by one JSON value.
//!
//! `{"get":"status"}` or `{"get":"routes"}`; the answer is `{"ok": …}` or `{"error": "…"}`. Only root can connect.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::places;

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// The name of the lock that says an agent is alive.
const LOCK_NAME: &str = "agent.lock";
/// The longest question, in bytes.
const MAX_REQUEST: u64 = 1024;
/// How many are served at the same time; more wait.
pub const MAX_CONNECTIONS: usize = 16;
/// How long a client may take for its question, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The [`super::NodeStatus`].
    Status,
    /// All paths, as [`super::RouteStatus`].
    Routes,
}

/// A question as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked for.
    pub get: Subject,
}

/// A question and where its answer goes.
#[derive(Debug)]
pub struct Question {
    /// What is asked for.
    pub subject: Subject,
    /// Takes the answer.
    pub answer: oneshot::Sender<Value>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent has the run directory.
    #[error(
        "another heliograph runs with {run_dir}: stop it first, or give this one its own --run-dir (one agent a node)"
    )]
    ObjectGeneration {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// The kernel refused.
    #[error(
        "{what} {path}: {source}; the agent needs to write there: run it as root or give another --run-dir"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + 'a {
    move |source| SocketError::Io { what, path: path.into(), source }
}

/// Holds a run directory: as long as it lives no other agent can have it, and after a crash it is free at once.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Takes the run directory, making it if need be.
    ///
    /// # Errors
    /// [`SocketError::ObjectGeneration`] if another agent lives in it.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        fs::create_dir_all(path).map_err(failed("make the run directory", path))?;
        let lock = path.join(LOCK_NAME);
        let file = File::options().create(true).write(true).truncate(false).open(&lock);
        let file = file.map_err(failed("open the lock", &lock))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { path: path.into(), _lock: held }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(SocketError::ObjectGeneration { run_dir: path.into() })
            }
            Err((_, errno)) => Err(failed("lock", &lock)(errno.into())),
        }
    }

    /// Listens on the socket, in place of one that a former agent left behind, and passes questions on.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn serve(&self, questions: mpsc::Sender<Question>) -> Result<(), SocketError> {
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
            let conversation = |stream| serve(stream, questions.clone());
            places::serve(listener, "the agent's socket", MAX_CONNECTIONS, 3 * PATIENCE, conversation).await;
        });
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // So that clients are told "not there" instead of "refused"; the lock file stays, as removing it would race.
        let _ = fs::remove_file(self.path.join(SOCKET_NAME));
    }
}

async fn serve(stream: UnixStream, questions: mpsc::Sender<Question>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(request, questions).await,
        Err(error) => json!({"error": format!("not a request: {error}; ask {{\"get\":\"status\"}}")}),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    timeout(PATIENCE, writer.write_all(&bytes)).await??;
    writer.shutdown().await
}

async fn answer(request: Request, questions: mpsc::Sender<Question>) -> Value {
    let (sender, receiver) = oneshot::channel();
    let question = Question { subject: request.get, answer: sender };
    let answer = async {
        questions.send(question).await.ok()?;
        receiver.await.ok()
    };
    match timeout(PATIENCE, answer).await {
        Ok(Some(value)) => json!({"ok": value}),
        Ok(None) => json!({"error": "the agent is stopping"}),
        Err(_) => json!({"error": "the agent is busy and did not answer in time; ask again"}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::client::{AskError, ask};
    use std::io::{Read, Write};

    /// Serves answers of one kind until dropped.
    fn served(folder: &Path, answer: Option<Value>) -> (RunDir, tokio::task::JoinHandle<()>) {
        let run_dir = RunDir::take(folder).unwrap();
        let (sender, mut questions) = mpsc::channel(1);
        run_dir.serve(sender).unwrap();
        let task = tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                if let Some(answer) = &answer {
                    let _ = question.answer.send(answer.clone());
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

    #[tokio::test]
    async fn a_question_gets_its_answer_and_nonsense_a_remark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let (_run_dir, _task) = served(&path, Some(json!({"x": 1})));
        let mode = fs::metadata(path.join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        aside(move || {
            assert_eq!(ask::<Value>(&path, Subject::Routes).unwrap(), json!({"x": 1}));
            for nonsense in [
                &b"hello\n"[..],
                b"{\"get\":\"everything\"}\n",
                b"{\"get\":\"status\",\"x\":1}\n",
                &[b'x'; 5000],
            ] {
                let said = raw(&path, nonsense);
                // What is sent beyond the limit may also end in a reset.
                assert!(said.contains("not a request") || nonsense.len() > 4000, "{said}");
            }
            assert!(matches!(ask::<u32>(&path, Subject::Status), Err(AskError::Strange { .. })));
        })
        .await;
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_others_from_being_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        let (_run_dir, _task) = served(&path, Some(json!(1)));
        aside(move || {
            let connect = || std::os::unix::net::UnixStream::connect(path.join(SOCKET_NAME)).unwrap();
            let _silent: Vec<_> = (0..MAX_CONNECTIONS - 1).map(|_| connect()).collect();
            assert_eq!(ask::<u32>(&path, Subject::Status).unwrap(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn one_run_directory_one_agent_and_a_crash_frees_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = RunDir::take(&path).unwrap();
        let refused = RunDir::take(&path).unwrap_err().to_string();
        assert!(refused.contains("another heliograph runs"), "{refused}");
        drop(first);
        // A socket left behind, as after kill -9.
        drop(std::os::unix::net::UnixListener::bind(path.join(SOCKET_NAME)).unwrap());
        let (_run_dir, _task) = served(&path, Some(json!(2)));
        let answer = aside(move || ask::<u32>(&path, Subject::Status)).await.unwrap();
        assert_eq!(answer, 2);
    }
}
