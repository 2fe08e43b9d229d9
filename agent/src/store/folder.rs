//! Reading a folder of YAML files, and what its documents mean together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::{self, Extent, Object};
use super::problem::{Problem, Problems};
use super::yaml::{self, Lines};
use super::{Rejection, decode};
use crate::intent::Snapshot;

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, for people.
    pub path: PathBuf,
    /// Its text, or why it could not be read.
    pub text: Result<String, String>,
}

/// A folder as it was read: its files in order, or why it could not be read.
pub type Content = Result<Vec<File>, Unreadable>;

/// A folder that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What was wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Intent that holds together.
#[derive(Clone, Debug)]
pub struct Good {
    /// The intent.
    pub snapshot: Snapshot,
    /// The objects it was made of, as they were read.
    pub objects: Vec<Value>,
}

/// Reads `*.yaml` and `*.yml` of a folder, in order of their names. Names that begin with a dot are left out, as are
/// sub-folders: ConfigMap volumes and editors keep their own things there.
pub fn read(folder: &Path) -> Content {
    let unreadable = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("make it and put the intent there: mkdir -p {}", folder.display())
            }
            _ => "see that it is a folder which the agent may read".to_string(),
        };
        Unreadable { problem: format!("the intent folder can't be read: {error}"), remedy }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let ours = matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml"));
        if ours && !name.starts_with('.') && !path.is_dir() {
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

/// Where an object stands.
struct Place {
    file: String,
    title: String,
    lines: Lines,
}

/// What the files mean, or everything that is wrong with them.
pub fn interpret(folder: &Path, content: &Content) -> Result<Good, Vec<Rejection>> {
    let whole = |problem: &str, remedy: &str| Rejection {
        file: folder.display().to_string(),
        line: None,
        object: String::new(),
        field: String::new(),
        problem: problem.into(),
        remedy: remedy.into(),
    };
    let files = match content {
        Ok(files) => files,
        Err(unreadable) => return Err(vec![whole(&unreadable.problem, &unreadable.remedy)]),
    };
    if files.is_empty() {
        let remedy = "put Node and BGPConfiguration documents there (manifests/intent has an example)";
        return Err(vec![whole("the intent folder holds no *.yaml file", remedy)]);
    }
    let mut reading = Reading::default();
    for file in files {
        reading.file(file);
    }
    reading.conclude(&whole)
}

#[derive(Default)]
struct Reading {
    rejections: Vec<Rejection>,
    places: Vec<Place>,
    values: Vec<Value>,
    objects: Vec<Object>,
    /// For each of `objects`, its place.
    origins: Vec<usize>,
    incomplete: bool,
}

impl Reading {
    fn file(&mut self, file: &File) {
        let path = file.path.display().to_string();
        let rejection = |line, field: &str, problem: &str, remedy: &str| Rejection {
            file: path.clone(),
            line,
            object: String::new(),
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        };
        let parsed = match &file.text {
            Err(error) => {
                Err(rejection(None, "", &format!("can't be read: {error}"), "correct or remove the file"))
            }
            Ok(text) => {
                yaml::parse(text).map_err(|e| rejection(Some(e.line), &e.field, &e.problem, &e.remedy))
            }
        };
        match parsed {
            Err(rejection) => {
                self.rejections.push(rejection);
                self.incomplete = true;
            }
            Ok(documents) => {
                for document in documents {
                    self.document(&path, document.value, document.lines);
                }
            }
        }
    }

    /// A document is an object, or a `v1` List of them, which is how kubectl prints several.
    fn document(&mut self, file: &str, mut value: Value, lines: Lines) {
        if value.is_null() {
            return;
        }
        if value["apiVersion"] == "v1" && value["kind"] == "List" {
            let items = value["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            for (index, item) in items.into_iter().enumerate() {
                self.object(file, item, lines.below(&format!("items[{index}]")));
            }
        } else {
            self.object(file, value, lines);
        }
    }

    fn object(&mut self, file: &str, value: Value, lines: Lines) {
        let word =
            |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let title = format!("{} {}", word("/kind"), word("/metadata/name")).trim().to_string();
        let place = self.places.len();
        self.places.push(Place { file: file.into(), title, lines });
        let mut found = Vec::new();
        match decode::object(&value, decode::Unknown::Refused, &mut Problems::of(place, &mut found)) {
            Some(object) => {
                self.objects.push(object);
                self.origins.push(place);
                self.values.push(value);
            }
            None => self.incomplete = true,
        }
        let rejections: Vec<_> = found.into_iter().map(|problem| self.placed(problem)).collect();
        self.rejections.extend(rejections);
    }

    fn placed(&self, problem: Problem) -> Rejection {
        let place = problem.object.and_then(|object| self.places.get(object));
        let words = match problem.clash {
            None => problem.problem,
            Some((object, field)) => {
                let other = &self.places[object];
                let line = other.lines.of(&field).map(|line| format!(":{line}")).unwrap_or_default();
                format!("{} ({}{line})", problem.problem, other.file)
            }
        };
        Rejection {
            file: place.map(|place| place.file.clone()).unwrap_or_default(),
            line: place.and_then(|place| place.lines.of(&problem.field)),
            object: place.map(|place| place.title.clone()).unwrap_or_default(),
            field: problem.field,
            problem: words,
            remedy: problem.remedy,
        }
    }

    fn conclude(mut self, whole: &dyn Fn(&str, &str) -> Rejection) -> Result<Good, Vec<Rejection>> {
        match check::assemble(&self.objects, Extent::Whole { complete: !self.incomplete }) {
            Ok(snapshot) if self.rejections.is_empty() => return Ok(Good { snapshot, objects: self.values }),
            Ok(_) => {}
            Err(problems) => {
                for mut problem in problems {
                    let rejection = if problem.object.is_none() {
                        whole(&problem.problem, &problem.remedy)
                    } else {
                        problem.object = problem.object.map(|object| self.origins[object]);
                        problem.clash = problem.clash.map(|(object, field)| (self.origins[object], field));
                        self.placed(problem)
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
