//! Asks a running agent over its socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::server::{Request, SOCKET_NAME, Subject};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no agent answers on {path}: {source}; is it running (heliograph agent --node NAME), and with this run \
         directory (--run-dir)?"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The socket is root's.
    #[error("may not ask the agent on {path}: {source}; run this as root")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It hung up or was silent.
    #[error("the agent on {path} did not answer: {source}; ask again, and look at its log")]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It refused.
    #[error("the agent on {path} answered: {answer}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Its words.
        answer: String,
    },
    /// It speaks another version.
    #[error(
        "the agent on {path} answered what this program does not understand ({source}): are both of one version?"
    )]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What was odd.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// Asks the agent of a run directory.
///
/// # Errors
/// [`AskError`]
pub fn ask<T: DeserializeOwned>(run_dir: &Path, subject: Subject) -> Result<T, AskError> {
    let path = run_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::Forbidden { path: path.clone(), source },
        _ => AskError::Unreachable { path: path.clone(), source },
    })?;
    let text = exchange(stream, subject).map_err(|source| AskError::Silent { path: path.clone(), source })?;
    match serde_json::from_str(&text) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(answer)) => Err(AskError::Refused { path, answer }),
        Err(source) => Err(AskError::Strange { path, source }),
    }
}

fn exchange(mut stream: UnixStream, subject: Subject) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = serde_json::to_vec(&Request { get: subject })?;
    question.push(b'\n');
    stream.write_all(&question)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}
