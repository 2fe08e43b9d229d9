//! The source of intent: a folder of YAML documents (`files`) or an API server (`kubernetes`).
//!
//! Each store sends a complete, validated [`crate::intent::Snapshot`], again after each change. `convert` translates single
//! objects, `check` validates them together.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use self::problem::Problem;
use crate::api::ObjectRef;
use crate::intent::Snapshot;

pub mod accept;
pub mod check;
pub mod convert;
pub mod decode;
pub mod files;
mod folder;
pub mod kubernetes;
pub mod last_good;
mod names;
pub mod nodes;
pub mod problem;
mod schema;
pub mod yaml;

/// The state of a store at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The intent in force: the last accepted one. `None`: there was none yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The number of changes of the intent in force.
    pub generation: u64,
    /// The newest content of the store is in force.
    pub in_sync: bool,
    /// The source of the intent in force, for people.
    pub origin: String,
    /// The reasons why the newest content is not in force; empty where it is.
    pub rejections: Vec<Rejection>,
    /// Other problems, with remedies.
    pub problems: Vec<String>,
    /// Heliograph's objects in the API server, with the generation of each that is in force.
    pub objects: Vec<ObjectGeneration>,
    /// The connection to the API server. `None`: the store is a folder.
    pub connection: Option<Connection>,
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        // Most views share their snapshot with the one before. A comparison of all nodes takes long.
        let same_snapshot = match (&self.snapshot, &other.snapshot) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two) || one == two,
            (one, two) => one.is_none() && two.is_none(),
        };
        let rest = |view: &Self| (view.generation, view.in_sync, view.connection.clone());
        same_snapshot
            && rest(self) == rest(other)
            && (&self.origin, &self.rejections, &self.problems, &self.objects)
                == (&other.origin, &other.rejections, &other.problems, &other.objects)
    }
}

/// The connection to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The server's address.
    pub server: String,
    /// All watches are established.
    pub connected: bool,
    /// The time of the last change of `connected`.
    pub since: SystemTime,
    /// The last error.
    pub last_error: Option<String>,
    /// UID of this node's Node. `None`: there is none, or it was not received yet.
    pub node_uid: Option<String>,
    /// The server answers, and rejects a request that is needed. Then the intent in force is not followed until somebody
    /// repairs that. A server that is unavailable holds no intent that could be followed.
    pub rejected: bool,
}

/// An object of one of Heliograph's kinds in the API server, with the generation that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectGeneration {
    /// The object.
    pub object: ObjectRef,
    /// The newest generation that was received.
    pub generation: i64,
    /// The generation in force. Where the newest is rejected: an older one, or `None`.
    pub in_force: Option<i64>,
}

/// One reason why intent is not accepted, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// The file; empty where the store is an API server.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The object. `None`: it is about no object, or about one of an unknown kind.
    pub object: Option<ObjectRef>,
    /// The field, as a path: `spec.podCIDRs[0]`; empty where it is about no field.
    pub field: String,
    /// The problem.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl Rejection {
    /// Returns the rejection because of a problem of an object in the API server.
    pub fn new(object: Option<ObjectRef>, problem: Problem) -> Self {
        let Problem { field, problem, remedy, .. } = problem;
        Self { file: String::new(), line: None, object, field, problem, remedy }
    }

    /// Sets file and line.
    pub fn in_file(self, file: impl Into<String>, line: Option<u32>) -> Self {
        Self { file: file.into(), line, ..self }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, Some(line)) => write!(f, "{file}:{line}: ")?,
            (file, None) => write!(f, "{file}: ")?,
        }
        let object = self.object.as_ref().map(ObjectRef::to_string).unwrap_or_default();
        let separator = if object.is_empty() || self.field.is_empty() { "" } else { " " };
        let place = format!("{object}{separator}{}", self.field);
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

#[cfg(test)]
mod tests;
