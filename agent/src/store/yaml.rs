//! YAML documents as JSON values, with the line of every field for rejections.
//!
//! Values and lines come from the same parser, so they match. Plain scalars follow the core schema (YAML 1.2 §10.3): `yes`
//! is a string. Merge keys and custom tags are rejected. Anchors and aliases work, up to a size.

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use super::problem::Problem;

/// The largest number of values in a file with its aliases expanded. Aliases of aliases grow exponentially.
const MAX_VALUES: usize = 2_000_000;
/// The largest depth of nested values.
const MAX_DEPTH: usize = 64;

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The content.
    pub value: Value,
    /// The line of each field, by path.
    pub lines: Lines,
}

/// The line of each field of a document, by path: `spec.podCIDRs[0]`. The document itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(BTreeMap<String, u32>);

impl Lines {
    /// Returns the line of a field, or of the closest enclosing one that exists.
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

    /// Returns the lines below a path, with paths relative to it.
    pub fn below(&self, path: &str) -> Self {
        let from_here = self.0.range(path.to_string()..);
        let inside = from_here.map_while(|(key, line)| Some((key.strip_prefix(path)?, *line)));
        // `items[1]` and not `items[1]x`: what follows begins a field or an index.
        let inside = inside.filter(|(rest, _)| rest.is_empty() || rest.starts_with(['.', '[']));
        let inside = inside.map(|(rest, line)| (rest.strip_prefix('.').unwrap_or(rest).to_string(), line));
        Self(inside.collect())
    }
}

/// A syntax error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The line.
    pub line: u32,
    /// The field, if there is one, the problem and the remedy.
    pub problem: Problem,
}

/// Returns the path of a field in the object at `path`.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// Parses all documents of a text.
///
/// # Errors
/// A syntax error. The documents before it may be affected, so none is returned.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
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
    fn next(&mut self) -> Result<Spanned<'a>, SyntaxError> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(SyntaxError {
                line: line(error.marker().line()),
                problem: Problem::new(
                    format!("not valid YAML: {} (column {})", error.info(), error.marker().col() + 1),
                    "correct the syntax at or just before this line: indentation, quotes, a missing colon",
                ),
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
    ) -> Result<Value, SyntaxError> {
        let at = line(span.start.line());
        let reject = |problem: &str, remedy: &str| {
            Err(SyntaxError { line: at, problem: Problem::new(problem, remedy).at(path) })
        };
        // A mapping's value has the line of its key, where people search for it.
        lines.0.entry(path.to_string()).or_insert(at);
        self.values += 1;
        if self.values > MAX_VALUES || depth > MAX_DEPTH {
            return reject("too many values or too deeply nested", "split the file, and write aliases out");
        }
        let before = self.values;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some((value, size)) = self.anchors.get(&id).cloned() else {
                    return reject("an alias to an anchor that isn't complete", "write the value out");
                };
                self.values += size;
                (value, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let core = match &tag {
                    None => None,
                    Some(tag) if tag.is_yaml_core_schema() => Some(tag.suffix.as_str()),
                    Some(_) => return reject("a custom tag", "remove the tag (!…)"),
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

    fn mapping(&mut self, path: &str, depth: usize, lines: &mut Lines) -> Result<Value, SyntaxError> {
        let mut fields = Map::new();
        loop {
            let (key, at) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Object(fields)),
                (Event::Scalar(key, ..), span) => (key.to_string(), line(span.start.line())),
                (_, span) => {
                    let remedy = "write NAME: VALUE; text with special characters needs quotes";
                    let problem = Problem::new("a field name that is no plain word", remedy).at(path);
                    return Err(SyntaxError { line: line(span.start.line()), problem });
                }
            };
            let inner = join(path, &key);
            let reject = |problem: &str, remedy: &str| {
                Err(SyntaxError { line: at, problem: Problem::new(problem, remedy).at(&inner) })
            };
            if key == "<<" {
                return reject("a merge key, which Kubernetes objects don't have", "write the fields out");
            }
            if let Some(first) = fields.get(&key).and_then(|_| lines.of(&inner)) {
                return reject(
                    &format!("the field is there twice, first in line {first}"),
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

/// Returns the value of a scalar by the core schema (YAML 1.2 §10.3.2).
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
    // Only text that starts like a number: `nan`, `inf` and `e5` are strings.
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
    fn errors_have_a_line_and_a_remedy() {
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
            assert!(error.problem.problem.contains(expected), "{text}: {error:?}");
            assert!(error.line >= 1 && !error.problem.remedy.is_empty(), "{text}: {error:?}");
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
        assert!(parse(&bomb).unwrap_err().problem.problem.contains("too many"));
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
