//! Reading of a folder of YAML files, and validation of its documents.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::{self, Object};
use super::problem::{Finding, Problem, Problems};
use super::yaml::{self, Lines};
use super::{Rejection, decode};
use crate::api::{ObjectKind, ObjectRef};
use crate::intent::Snapshot;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The path.
    pub path: PathBuf,
    /// The text, or the error of reading it.
    pub text: Result<String, String>,
}

/// The files of a folder in order, or the problem of reading it.
pub type Files = Result<Vec<File>, Problem>;

/// Valid intent.
#[derive(Clone, Debug)]
pub struct Valid {
    /// The intent.
    pub snapshot: Snapshot,
    /// Its documents.
    pub documents: Vec<Value>,
}

/// Reads `*.yaml` and `*.yml` of a folder, in order of their names. It leaves out subfolders and names that begin with a
/// dot: these are of ConfigMap volumes and editors.
pub fn read(folder: &Path) -> Files {
    let unreadable = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("make it and put the intent there: mkdir -p {}", folder.display())
            }
            _ => "check that it is a folder which the agent may read".to_string(),
        };
        Problem::new(format!("the intent folder can't be read: {error}"), remedy)
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let is_yaml = matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml"));
        if is_yaml && !name.starts_with('.') && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let files = paths.into_iter().map(|path| {
        let text = fs::read(&path).map_err(|error| error.to_string());
        let text = text.and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| format!("not UTF-8 text: {}", error.utf8_error()))
        });
        File { path, text }
    });
    Ok(files.collect())
}

/// The place of a document.
struct Place {
    file: String,
    object: Option<ObjectRef>,
    lines: Lines,
}

/// Validates the files of a folder together.
///
/// # Errors
/// All reasons why the folder is rejected.
pub fn validate(folder: &Path, files: &Files) -> Result<Valid, Vec<Rejection>> {
    let of_folder =
        |problem: Problem| Rejection::new(None, problem).in_file(folder.display().to_string(), None);
    let files = match files {
        Ok(files) => files,
        Err(problem) => return Err(vec![of_folder(problem.clone())]),
    };
    if files.is_empty() {
        let remedy = "put Node and BGPConfiguration documents there (manifests/intent has an example)";
        return Err(vec![of_folder(Problem::new("the intent folder holds no *.yaml file", remedy))]);
    }
    let mut validation = Validation::default();
    for file in files {
        validation.add_file(file);
    }
    validation.finish(&of_folder)
}

#[derive(Default)]
struct Validation {
    rejections: Vec<Rejection>,
    places: Vec<Place>,
    documents: Vec<Value>,
    objects: Vec<Object>,
    /// The index of each object's place.
    place_of: Vec<usize>,
    /// A document could not be decoded.
    incomplete: bool,
}

impl Validation {
    fn add_file(&mut self, file: &File) {
        let path = file.path.display().to_string();
        let rejection = |line, problem| Rejection::new(None, problem).in_file(&path, line);
        let parsed = match &file.text {
            Err(error) => {
                let problem = Problem::new(format!("can't be read: {error}"), "correct or remove the file");
                Err(rejection(None, problem))
            }
            Ok(text) => yaml::parse(text).map_err(|error| rejection(Some(error.line), error.problem)),
        };
        match parsed {
            Err(rejection) => {
                self.rejections.push(rejection);
                self.incomplete = true;
            }
            Ok(documents) => {
                for document in documents {
                    self.add_document(&path, document.value, document.lines);
                }
            }
        }
    }

    /// Adds a document: an object, or a `v1` List of objects as `kubectl get` prints it.
    fn add_document(&mut self, file: &str, mut value: Value, lines: Lines) {
        if value.is_null() {
            return;
        }
        if value["apiVersion"] == "v1" && value["kind"] == "List" {
            let items = value["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            for (index, item) in items.into_iter().enumerate() {
                self.add_object(file, item, lines.below(&format!("items[{index}]")));
            }
        } else {
            self.add_object(file, value, lines);
        }
    }

    fn add_object(&mut self, file: &str, value: Value, lines: Lines) {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = ObjectKind::from_name(text("/kind"));
        let object = kind.map(|kind| ObjectRef::new(kind, text("/metadata/name")));
        let place = self.places.len();
        self.places.push(Place { file: file.into(), object, lines });
        let mut found = Vec::new();
        match decode::object(&value, decode::UnknownFields::Rejected, &mut Problems::of(place, &mut found)) {
            Some(object) => {
                self.objects.push(object);
                self.place_of.push(place);
                self.documents.push(value);
            }
            None => self.incomplete = true,
        }
        let rejections: Vec<_> = found.into_iter().map(|finding| self.rejection(finding)).collect();
        self.rejections.extend(rejections);
    }

    /// Returns the rejection because of a finding whose objects are indices of places.
    fn rejection(&self, finding: Finding) -> Rejection {
        let Finding { mut problem, object, conflict, .. } = finding;
        if let Some((other, field)) = conflict {
            let other = &self.places[other];
            let line = other.lines.of(&field).map(|line| format!(":{line}")).unwrap_or_default();
            problem.problem = format!("{} ({}{line})", problem.problem, other.file);
        }
        match object.and_then(|place| self.places.get(place)) {
            None => Rejection::new(None, problem),
            Some(place) => {
                let line = place.lines.of(&problem.field);
                Rejection::new(place.object.clone(), problem).in_file(&place.file, line)
            }
        }
    }

    fn finish(mut self, of_folder: &dyn Fn(Problem) -> Rejection) -> Result<Valid, Vec<Rejection>> {
        match check::assemble(&self.objects, !self.incomplete) {
            Ok(snapshot) if self.rejections.is_empty() => {
                return Ok(Valid { snapshot, documents: self.documents });
            }
            Ok(_) => {}
            Err(findings) => {
                for mut finding in findings {
                    let rejection = if finding.object.is_none() {
                        of_folder(finding.problem)
                    } else {
                        let place_of = |object: usize| self.place_of[object];
                        finding.object = finding.object.map(place_of);
                        finding.conflict = finding.conflict.map(|(object, field)| (place_of(object), field));
                        self.rejection(finding)
                    };
                    self.rejections.push(rejection);
                }
            }
        }
        self.rejections.sort();
        self.rejections.dedup();
        Err(self.rejections)
    }
}
