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
    /// An object of which another version would make it good, present or not: rather that one is to blame.
    pub object_ref: Option<ObjectRef>,
}

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The object of this kind and name.
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
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
            object_ref: None,
        });
    }

    /// Puts the blame for what was noted last on another object.
    pub fn blame(&mut self, object_ref: ObjectRef) {
        if let Some(last) = self.found.last_mut() {
            last.object_ref = Some(object_ref);
        }
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
