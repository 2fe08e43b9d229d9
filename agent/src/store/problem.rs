//! Problems of objects: the field, what is wrong, and the remedy.

use crate::api::ObjectRef;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as a path in the object: `spec.podCIDRs[0]`; empty where it is about no field.
    pub field: String,
    /// The problem.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl Problem {
    /// Returns a problem that is about no field.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: String::new(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Sets the field.
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }
}

/// A problem that validation of a list of objects found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The problem.
    pub problem: Problem,
    /// The object, by its index. `None`: the list as a whole.
    pub object: Option<usize>,
    /// The field of another object that this one conflicts with, with the object's index.
    pub conflict: Option<(usize, String)>,
    /// The object whose absence or current version causes the problem, where that is another one.
    pub cause: Option<ObjectRef>,
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        Self { problem, object: None, conflict: None, cause: None }
    }
}

impl Finding {
    /// Returns a finding that is about no object and no field.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem::new(problem, remedy).into()
    }

    /// Sets the object, by its index.
    pub fn of(self, object: usize) -> Self {
        Self { object: Some(object), ..self }
    }

    /// Sets the field.
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { problem: self.problem.at(field), ..self }
    }

    /// Sets the object that causes the problem.
    pub fn caused_by(self, object: ObjectRef) -> Self {
        Self { cause: Some(object), ..self }
    }

    /// Sets the field of another object that this one conflicts with.
    pub fn in_conflict_with(self, object: usize, field: impl Into<String>) -> Self {
        Self { conflict: Some((object, field.into())), ..self }
    }
}

/// A collector of the problems of one object.
#[derive(Debug)]
pub struct Problems<'a> {
    object: usize,
    found: &'a mut Vec<Finding>,
}

impl<'a> Problems<'a> {
    /// Returns a collector that adds to `found`, for the object with an index.
    pub fn of(object: usize, found: &'a mut Vec<Finding>) -> Self {
        Self { object, found }
    }

    /// Adds a problem of a field.
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(Finding::new(problem, remedy).at(field));
    }

    /// Adds a finding.
    pub fn push(&mut self, finding: Finding) {
        self.found.push(finding.of(self.object));
    }
}
