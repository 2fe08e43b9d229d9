//! The client of a running agent's socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::server::{Request, SOCKET_NAME, Subject};
use super::{Document, SCHEMA_VERSION};

/// The longest time for a request or its answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A failed request to an agent.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No process listens on the socket.
    #[error(
        "no agent answers on {path}: {source}; is it running (heliograph agent --node NAME), and with this run \
         directory (--run-dir)?"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket belongs to root.
    #[error("connect to the agent on {path}: {source}; run this as root")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The agent closed the connection or did not answer in time.
    #[error("the agent on {path} did not answer: {source}; try again, and look at its log")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The agent returned an error.
    #[error("the agent on {path} answered: {answer}")]
    Failed {
        /// The socket.
        path: PathBuf,
        /// The agent's error.
        answer: String,
    },
    /// The answer has fields of another version.
    #[error(
        "the agent on {path} answered with schema version {found}, and this program reads version {SCHEMA_VERSION}: use \
         the program of the agent's version"
    )]
    Version {
        /// The socket.
        path: PathBuf,
        /// The version of the answer.
        found: u32,
    },
    /// The answer is no document of the expected form.
    #[error("read the answer of the agent on {path}: {source}; use the program of the agent's version")]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// The place of the error.
        source: serde_json::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

/// The version of a document whose other fields are not read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    schema_version: u32,
}

/// Requests a document from the agent that uses a run directory.
///
/// # Errors
/// [`RequestError`]
pub fn request<T: DeserializeOwned>(run_dir: &Path, subject: Subject) -> Result<Document<T>, RequestError> {
    let path = run_dir.join(SOCKET_NAME);
    let stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => RequestError::Forbidden { path: path.clone(), source },
        _ => RequestError::Unreachable { path: path.clone(), source },
    })?;
    let text =
        exchange(stream, subject).map_err(|source| RequestError::NoAnswer { path: path.clone(), source })?;
    match serde_json::from_str::<Answer<Version>>(&text) {
        Ok(Answer::Ok(Version { schema_version })) if schema_version != SCHEMA_VERSION => {
            return Err(RequestError::Version { path, found: schema_version });
        }
        _ => {}
    }
    match serde_json::from_str(&text) {
        Ok(Answer::Ok(document)) => Ok(document),
        Ok(Answer::Error(answer)) => Err(RequestError::Failed { path, answer }),
        Err(source) => Err(RequestError::Malformed { path, source }),
    }
}

fn exchange(mut stream: UnixStream, subject: Subject) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = serde_json::to_vec(&Request { get: subject })?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}
