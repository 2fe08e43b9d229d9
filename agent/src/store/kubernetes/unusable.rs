//! Objects of the API server that can't be used.

use crate::api::ObjectRef;
use crate::store::Rejection;
use crate::store::problem::Problem;

/// An object whose current version can't be used. Its accepted version stays in force.
#[derive(Debug)]
pub struct UnusableObject {
    /// The object.
    pub object: ObjectRef,
    /// The generation that can't be used. `None`: the object does not exist.
    pub generation: Option<i64>,
    /// The reasons.
    pub problems: Vec<Problem>,
}

impl UnusableObject {
    /// Returns the reasons as rejections of the object.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.problems.iter().map(|problem| Rejection::new(Some(self.object.clone()), problem.clone()))
    }
}
