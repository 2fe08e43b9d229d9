//! YAML documents as JSON values, with the line of every field, so that a rejection can name its place.
//!
//! One parser for both keeps them in step. Plain scalars are read by the core schema (YAML 1.2 §10.3): `yes` is a
//! string. Merge keys and tags of one's own are refused; anchors and aliases work, up to a size.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// So many values a file may expand to; aliases of aliases grow without bound otherwise.
const MAX_VALUES: usize = 2_000_000;
/// So deep values may be nested.
const MAX_DEPTH: usize = 64;

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its content.
    pub value: Value,
    /// Line of each field, by path.
    pub lines: Lines,
}

/// Line of each field of a document, by path: `spec.podCIDRs[0]`. The document itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(BTreeMap<String, u32>);

impl Lines {
    /// The line of a field; of the closest enclosing one where it isn't there.
    pub fn of(&self, path: &str) -> Option<u32> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }

    /// The lines below a path, as those of a document of its own.
    pub fn below(&self, path: &str) -> Self {
        let from_here = self.0.range(path.to_string()..);
        let inside = from_here.map_while(|(key, line)| Some((key.strip_prefix(path)?, *line)));
        // `items[1]` and not `items[1]x`: what follows begins a field or an index.
        let inside = inside.filter(|(rest, _)| rest.is_empty() || rest.starts_with(['.', '[']));
        let inside = inside.map(|(rest, line)| (rest.strip_prefix('.').unwrap_or(rest).to_string(), line));
        Self(inside.collect())
    }
}

/// Why a file is no YAML that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Malformed {
    /// Where.
    pub line: u32,
    /// The field, where known.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// The path of a field inside the object at `path`.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// Reads all documents of a text. Those before a syntax error are lost with the rest: nobody knows what they were
/// meant to be.
pub fn parse(text: &str) -> Result<Vec<Document>, Malformed> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), values: 0 };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::DocumentStart(_), _) => {
                let mut lines = Lines::default();
                let first = reader.next()?;
                let value = reader.value(first, "", 0, &mut lines)?;
                documents.push(Document { value, lines });
            }
            (Event::StreamEnd, _) => return Ok(documents),
            _ => {}
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
}

type Spanned<'a> = (Event<'a>, Span);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Spanned<'a>, Malformed> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Malformed {
                line: line(error.marker().line()),
                field: String::new(),
                problem: format!("not valid YAML: {} (column {})", error.info(), error.marker().col() + 1),
                remedy:
                    "correct the syntax at or just before this line: indentation, quotes, a missing colon"
                        .into(),
            }),
            None => Ok((Event::StreamEnd, Span::empty(saphyr_parser::Marker::new(0, 1, 0)))),
        }
    }

    fn value(
        &mut self,
        (event, span): Spanned<'a>,
        path: &str,
        depth: usize,
        lines: &mut Lines,
    ) -> Result<Value, Malformed> {
        let at = line(span.start.line());
        let refuse = |problem: &str, remedy: &str| {
            Err(Malformed { line: at, field: path.into(), problem: problem.into(), remedy: remedy.into() })
        };
        // A mapping's value keeps the line of its key, which is where people look.
        lines.0.entry(path.to_string()).or_insert(at);
        self.values += 1;
        if self.values > MAX_VALUES || depth > MAX_DEPTH {
            return refuse("too many values or too deeply nested", "split the file, and write aliases out");
        }
        let before = self.values;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some((value, size)) = self.anchors.get(&id).cloned() else {
                    return refuse("an alias to an anchor that isn't complete", "write the value out");
                };
                self.values += size;
                (value, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let core = match &tag {
                    None => None,
                    Some(tag) if tag.is_yaml_core_schema() => Some(tag.suffix.as_str()),
                    Some(_) => return refuse("a tag of its own", "remove the tag (!…)"),
                };
                (scalar(&text, style, core), anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        item => {
                            let path = format!("{path}[{}]", items.len());
                            items.push(self.value(item, &path, depth + 1, lines)?);
                        }
                    }
                }
                (Value::Array(items), anchor)
            }
            Event::MappingStart(anchor, _) => (self.mapping(path, depth, lines)?, anchor),
            _ => (Value::Null, 0),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before + 1));
        }
        Ok(value)
    }

    fn mapping(&mut self, path: &str, depth: usize, lines: &mut Lines) -> Result<Value, Malformed> {
        let mut fields = Map::new();
        loop {
            let (key, at) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Object(fields)),
                (Event::Scalar(key, ..), span) => (key.to_string(), line(span.start.line())),
                (_, span) => {
                    return Err(Malformed {
                        line: line(span.start.line()),
                        field: path.into(),
                        problem: "a field name that is no plain word".into(),
                        remedy: "write NAME: VALUE; text with special characters needs quotes".into(),
                    });
                }
            };
            let inner = join(path, &key);
            let refuse = |problem: String, remedy: &str| {
                Err(Malformed { line: at, field: inner.clone(), problem, remedy: remedy.into() })
            };
            if key == "<<" {
                return refuse(
                    "a merge key, which Kubernetes objects don't have".into(),
                    "write the fields out",
                );
            }
            if let Some(first) = fields.get(&key).and_then(|_| lines.of(&inner)) {
                return refuse(
                    format!("the field is there twice, first in line {first}"),
                    "remove one of them",
                );
            }
            lines.0.insert(inner.clone(), at);
            let first = self.next()?;
            let value = self.value(first, &inner, depth + 1, lines)?;
            fields.insert(key, value);
        }
    }
}

fn line(number: usize) -> u32 {
    u32::try_from(number.max(1)).unwrap_or(u32::MAX)
}

/// A scalar by the core schema (YAML 1.2 §10.3.2).
fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Value {
    if tag == Some("str") || (tag.is_none() && style != ScalarStyle::Plain) {
        return Value::String(text.to_string());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_string()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        return unsigned
            .parse::<u64>()
            .map(Number::from)
            .or_else(|_| unsigned.parse::<i64>().map(Number::from))
            .ok();
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return u64::from_str_radix(rest, radix).ok().map(Number::from);
        }
    }
    // Only what starts as a number does: `nan`, `inf` and `e5` are words.
    let plausible = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if plausible { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Document {
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents.into_iter().next().unwrap()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let cases = [
            ("1", json!(1)),
            ("-1", json!(-1)),
            ("0x10", json!(16)),
            ("1.5", json!(1.5)),
            ("\"1\"", json!("1")),
            ("'true'", json!("true")),
            ("true", json!(true)),
            ("yes", json!("yes")),
            ("~", json!(null)),
            ("10.244.0.0/16", json!("10.244.0.0/16")),
            ("10.244", json!(10.244)),
            ("1.2.3.4", json!("1.2.3.4")),
            ("fd00::/64", json!("fd00::/64")),
            ("2026-11-21T07:00:00Z", json!("2026-11-21T07:00:00Z")),
            ("e5", json!("e5")),
            ("!!str 5", json!("5")),
            ("|\n  a\n  b\n", json!("a\nb\n")),
        ];
        for (text, expected) in cases {
            assert_eq!(one(&format!("a: {text}")).value["a"], expected, "{text}");
        }
    }

    #[test]
    fn every_field_has_its_line() {
        let document = one("# comment\na: 1\nb:\n  - c: 2\n    d/e.f: 3\n  - {x: 4,\n     y: 5}\n");
        assert_eq!(document.value, json!({"a": 1, "b": [{"c": 2, "d/e.f": 3}, {"x": 4, "y": 5}]}));
        let lines = [("a", 2), ("b", 3), ("b[0].c", 4), ("b[0].d/e.f", 5), ("b[1]", 6), ("b[1].y", 7)];
        for (path, line) in lines {
            assert_eq!(document.lines.of(path), Some(line), "{path}");
        }
        assert_eq!(document.lines.of("b[0].missing.deeper"), Some(4));
        assert_eq!(document.lines.below("b[0]").of("d/e.f"), Some(5));
    }

    #[test]
    fn several_documents_keep_lines_of_the_file() {
        let documents = parse("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        let values: Vec<_> = documents.iter().map(|d| d.value.clone()).collect();
        assert_eq!(values, [json!({"a": 1}), json!(null), json!({"b": 2})]);
        assert_eq!(documents[2].lines.of("b"), Some(6));
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("# only a comment\n").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_has_a_line_and_a_remedy() {
        let cases = [
            ("a: 1\nb: [1, 2\nc: 3\n", "not valid YAML"),
            ("a: 1\n b: 2\n", "not valid YAML"),
            ("a: 1\na: 2\n", "twice, first in line 1"),
            ("x: &x {a: 1}\ny:\n  <<: *x\n", "merge key"),
            ("a: !own 1\n", "tag"),
            ("? [a]\n: 1\n", "no plain word"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.problem.contains(expected), "{text}: {error:?}");
            assert!(error.line >= 1 && !error.remedy.is_empty(), "{text}: {error:?}");
        }
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().line, 2);
    }

    #[test]
    fn aliases_work_but_do_not_explode() {
        assert_eq!(one("a: &x [1, 2]\nb: *x\n").value, json!({"a": [1, 2], "b": [1, 2]}));
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for i in 1..9 {
            let list = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().problem.contains("too many"));
    }

    #[test]
    fn json_is_yaml() {
        let value =
            json!({"a": "x\ny \"q\" \\ \u{7} é: #", "b": [1, null, true, 1.5], "c": {"d": "10"}, "e": {}});
        let text = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(one(&text).value, value);
        assert_eq!(one(&serde_json::to_string(&value).unwrap()).value, value);
    }
}
