//! What is wrong with an object: which field, what, and what to do. The store adds file and line.

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object, by its number in the list that was checked; `None`: the whole.
    pub object: Option<usize>,
    /// The field, as a path in the object: `spec.podCIDRs[0]`.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// Another field that it clashes with.
    pub clash: Option<(usize, String)>,
}

/// Problems as they are found in one object.
#[derive(Debug)]
pub struct Problems<'a> {
    object: usize,
    found: &'a mut Vec<Problem>,
}

impl<'a> Problems<'a> {
    /// Those of an object, added to `found`.
    pub fn of(object: usize, found: &'a mut Vec<Problem>) -> Self {
        Self { object, found }
    }

    /// Notes one.
    pub fn note(&mut self, field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(Problem {
            object: Some(self.object),
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
            clash: None,
        });
    }

    /// Notes one that clashes with a field of another object.
    pub fn note_clash(
        &mut self,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
        clash: (usize, String),
    ) {
        self.note(field, problem, remedy);
        if let Some(last) = self.found.last_mut() {
            last.clash = Some(clash);
        }
    }
}
