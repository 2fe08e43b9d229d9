//! Where intent comes from. Every store gives the same whole, checked [`crate::intent::Snapshot`], again at each
//! change. `check` and `convert` serve them all; `files` is a folder of YAML documents, `kubernetes` an API server.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::intent::Snapshot;

pub mod check;
pub mod convert;
pub mod decode;
pub mod files;
mod folder;
pub mod kubernetes;
pub mod last_good;
mod names;
pub mod problem;
mod schema;
pub mod settle;
pub mod yaml;

/// What a store has to say at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The newest intent that was good; `None`: there was none yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// How often the intent in force has changed.
    pub generation: u64,
    /// What the store holds now is what is in force.
    pub in_sync: bool,
    /// Where the intent in force comes from, in words.
    pub origin: String,
    /// Why what the store holds now isn't in force; empty where it is.
    pub rejections: Vec<Rejection>,
    /// What else isn't as it should be, with what to do.
    pub problems: Vec<String>,
    /// Our kinds' objects in the API server, and which generation of each is in force.
    pub objects: Vec<ObjectGeneration>,
    /// How it stands with the API server; `None`: there is none.
    pub connection: Option<Connection>,
}

/// How it stands with an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its address.
    pub server: String,
    /// It tells everything that is needed.
    pub connected: bool,
    /// Since when it does, or doesn't.
    pub since: SystemTime,
    /// What was last the matter.
    pub last_error: Option<String>,
    /// UID of our own Node; `None`: there is none, or it was not told yet.
    pub node_uid: Option<String>,
    /// It answers, and refuses something that is needed. Intent isn't followed until somebody does something about it;
    /// one that is merely away will tell what there is to follow.
    pub refused: bool,
}

/// One of our kinds' objects in the API server, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectGeneration {
    /// The object, as `BGPPeer tor`.
    pub object: String,
    /// The generation that the API server last told of.
    pub generation: i64,
    /// The generation in force. Where the newest is refused: an older one, or `None`.
    pub in_force: Option<i64>,
}

/// One reason why intent is refused, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// The file; empty where it comes from no file.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The object, as `Node rack1-a`; empty where unknown.
    pub object: String,
    /// The field, as a path: `spec.podCIDRs[0]`; empty where no field is to blame.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, Some(line)) => write!(f, "{file}:{line}: ")?,
            (file, None) => write!(f, "{file}: ")?,
        }
        let separator = if self.object.is_empty() || self.field.is_empty() { "" } else { " " };
        let place = format!("{}{separator}{}", self.object, self.field);
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

#[cfg(test)]
mod tests;
