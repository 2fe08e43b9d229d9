//! Where intent comes from. Every store gives the same whole, checked [`crate::intent::Snapshot`], again at each
//! change. `check` and `convert` serve them all; `files` is a folder of YAML documents.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::intent::Snapshot;

pub mod check;
pub mod convert;
pub mod decode;
pub mod files;
mod folder;
pub mod problem;
mod schema;
pub mod yaml;

/// What a store has to say at one moment.
#[derive(Clone, Debug, Default)]
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
    pub refusals: Vec<Refusal>,
}

/// One reason why intent is refused, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The file, or what stands for it.
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": ")?;
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
