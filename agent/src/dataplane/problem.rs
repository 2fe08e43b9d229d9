//! Problems with the kernel, for the status. Similar ones are one entry, so that a thousand routes don't make a thousand.

use crate::netlink::KernelError;
use serde::Serialize;
use std::collections::HashMap;

/// A problem with the kernel, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The operation, and the object it was for.
    pub what: String,
    /// The cause.
    pub error: String,
    /// The action that helps.
    pub remedy: String,
}

/// A collection of problems. Those with the same cause and remedy are one entry.
#[derive(Debug, Default)]
pub struct Problems {
    entries: Vec<(Problem, usize)>,
    places: HashMap<(String, String), usize>,
}

impl Problems {
    /// Adds an error.
    pub fn add(&mut self, error: KernelError) {
        self.add_many(error, 1);
    }

    /// Adds as many errors with the same cause and remedy. `error` describes the first.
    pub fn add_many(&mut self, error: KernelError, count: usize) {
        if count == 0 {
            return;
        }
        let group = (error.cause.to_string(), error.remedy);
        match self.places.get(&group) {
            Some(place) => self.entries[*place].1 += count,
            None => {
                let problem = Problem { what: error.what, error: group.0.clone(), remedy: group.1.clone() };
                self.places.insert(group, self.entries.len());
                self.entries.push((problem, count));
            }
        }
    }

    /// Returns whether there is no problem.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entries, each with the number of similar ones.
    pub fn into_entries(self) -> Vec<Problem> {
        let name = |(mut problem, count): (Problem, usize)| {
            if count > 1 {
                problem.what = format!("{} (and {} more)", problem.what, count - 1);
            }
            problem
        };
        self.entries.into_iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Cause;

    #[test]
    fn similar_errors_are_one_entry() {
        let mut problems = Problems::default();
        assert!(problems.is_empty());
        for route in ["add route 10.0.0.0/8", "add route 11.0.0.0/8"] {
            problems.add(KernelError::from_cause(route, Cause::NoAnswer));
        }
        problems.add_many(KernelError::from_cause("add route 12.0.0.0/8", Cause::NoAnswer), 3);
        problems.add_many(KernelError::from_cause("nothing", Cause::NoAnswer), 0);
        problems.add(KernelError::new("x", Cause::NoAnswer, "another remedy"));
        let entries = problems.into_entries();
        let what: Vec<&str> = entries.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(what, ["add route 10.0.0.0/8 (and 4 more)", "x"]);
    }
}
