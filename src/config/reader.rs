//! Reads settings out of a [`Document`] one by one, and notes every fault on the way.
//!
//! A faulty setting reads as absent, or as its default, so that reading goes on to the next: what
//! is built from it is dropped at the end, since there is a fault.

use super::expand::{Environment, expand};
use super::fault::Fault;
use super::locate::{Aim, KeyPath, Step, locate};
use super::nearest::nearest;
use super::raw::Document;
use serde_yaml::{Mapping, Value};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The most faults told of one file: each costs a pass over its text to be placed.
const FAULTS_MAX: usize = 100;
/// The longest duration that can be set: a day.
const DURATION_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// One pass over a document.
pub(super) struct Reader<'a> {
    document: &'a Document,
    environment: Environment<'a>,
    noted: RefCell<Vec<Noted>>,
    files: RefCell<Vec<PathBuf>>,
}

struct Noted {
    path: KeyPath,
    aim: Aim,
    message: String,
}

impl<'a> Reader<'a> {
    pub(super) fn new(document: &'a Document, environment: Environment<'a>) -> Reader<'a> {
        Reader { document, environment, noted: RefCell::default(), files: RefCell::default() }
    }

    /// The whole document, which must be a mapping.
    pub(super) fn root(&'a self) -> Section<'a> {
        let node =
            Node { reader: self, path: KeyPath::default(), aim: Aim::Value, value: &self.document.root };
        if self.document.root.is_null() { Section::absent(self, node.path) } else { node.section() }
    }

    /// The files and directories that settings name.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// Every fault that was noted, with its place and in its order.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut noted = self.noted.into_inner();
        let left = noted.len().saturating_sub(FAULTS_MAX);
        noted.truncate(FAULTS_MAX);
        let mut faults: Vec<Fault> = noted.iter().map(|noted| self.document.fault(noted)).collect();
        faults.sort_by(|a, b| (a.line, a.column, &a.path).cmp(&(b.line, b.column, &b.path)));
        if let (Some(last), 1..) = (faults.last().cloned(), left) {
            let message = format!("{left} more faults are not shown: mend these first");
            faults.push(Fault { path: String::new(), message, ..last });
        }
        faults
    }

    fn note(&self, path: KeyPath, aim: Aim, message: impl Into<String>) {
        self.noted.borrow_mut().push(Noted { path, aim, message: message.into() });
    }
}

impl Document {
    fn fault(&self, noted: &Noted) -> Fault {
        let place = locate(&self.text, &noted.path, noted.aim);
        let (path, message) = (noted.path.to_string(), noted.message.clone());
        Fault { file: self.file.clone(), line: place.line, column: place.column, path, message }
    }
}

/// A value that is written in the document.
#[derive(Clone)]
pub(super) struct Node<'a> {
    reader: &'a Reader<'a>,
    path: KeyPath,
    aim: Aim,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// Notes that it is wrong.
    pub(super) fn fault(&self, message: impl Into<String>) {
        self.reader.note(self.path.clone(), self.aim, message);
    }

    /// The same, but its faults are at the key before it.
    pub(super) fn into_key(self) -> Node<'a> {
        Node { aim: Aim::Key, ..self }
    }

    /// Notes that it is of the wrong kind.
    pub(super) fn mismatch(&self, wanted: &str) {
        self.fault(format!("must be {wanted}, not {}", kind(self.value)));
    }

    /// Whether it is a list or a mapping of nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Sequence(items) => items.is_empty(),
            Value::Mapping(entries) => entries.is_empty(),
            _ => false,
        }
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.value, Value::Mapping(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Sequence(_))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.value, Value::Number(_))
    }

    /// A text with its variables replaced.
    pub(super) fn text(&self) -> Option<String> {
        let Value::String(text) = self.value else {
            let quote = if self.is_number() || self.value.is_bool() { ": quote it" } else { "" };
            self.fault(format!("must be text, not {}{quote}", kind(self.value)));
            return None;
        };
        match expand(text, self.reader.environment) {
            Ok(text) => Some(text),
            Err(faults) => {
                faults.into_iter().for_each(|fault| self.fault(fault));
                None
            }
        }
    }

    /// A text that something else makes sense of.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, &'static str>) -> Option<T> {
        parse(&self.text()?).map_err(|why| self.fault(why)).ok()
    }

    /// A file or directory; relative to the document's directory.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            self.fault("is empty: name a file or directory");
            return None;
        }
        let path = self.reader.document.directory.join(text);
        self.reader.files.borrow_mut().push(path.clone());
        Some(path)
    }

    /// A whole number; also out of a variable.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let number = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(written) if written.contains("${") => self.text()?.parse().ok(),
            _ => {
                self.mismatch(&wanted);
                return None;
            }
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(format!("must be {wanted}"));
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn switch(&self) -> Option<bool> {
        let Value::Bool(switch) = self.value else {
            self.mismatch("true or false");
            return None;
        };
        Some(*switch)
    }

    /// Each item of a list.
    pub(super) fn items(&self) -> Vec<Node<'a>> {
        let Value::Sequence(items) = self.value else {
            self.mismatch("a list");
            return Vec::new();
        };
        let node = |(index, value)| Node { path: self.path.join(Step::Item(index)), value, ..self.clone() };
        items.iter().enumerate().map(node).collect()
    }

    /// Each entry of a mapping whose keys are not known beforehand.
    pub(super) fn entries(&self) -> Vec<(&'a str, Node<'a>)> {
        let Value::Mapping(entries) = self.value else {
            self.mismatch("a mapping");
            return Vec::new();
        };
        let entry = |(key, value): (&'a Value, &'a Value)| match key.as_str() {
            Some(key) => {
                Some((key, Node { path: self.path.join(Step::Key(key.to_owned())), value, ..self.clone() }))
            }
            None => {
                self.fault(format!("has a key that is {}: quote it", kind(key)));
                None
            }
        };
        entries.iter().filter_map(entry).collect()
    }

    /// A mapping whose keys are known.
    pub(super) fn section(&self) -> Section<'a> {
        let written = match self.value {
            Value::Mapping(entries) => Written::Entries(entries),
            _ => {
                self.mismatch("a mapping");
                Written::Wrongly
            }
        };
        Section { reader: self.reader, path: self.path.clone(), written, known: Vec::new() }
    }
}

/// A required key, with a value that shows what is wanted.
pub(super) struct Required {
    pub(super) key: &'static str,
    pub(super) example: &'static str,
}

/// A mapping whose keys are known. Each is taken by its name; what is left at the end is unknown.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    path: KeyPath,
    written: Written<'a>,
    known: Vec<&'static str>,
}

enum Written<'a> {
    Entries(&'a Mapping),
    Absent,
    Wrongly,
}

impl<'a> Section<'a> {
    fn absent(reader: &'a Reader<'a>, path: KeyPath) -> Section<'a> {
        Section { reader, path, written: Written::Absent, known: Vec::new() }
    }

    /// The value of a key, unless it is absent or empty.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Node<'a>> {
        self.known.push(key);
        let Written::Entries(entries) = self.written else { return None };
        let value = entries.get(key).filter(|value| !value.is_null())?;
        Some(Node {
            reader: self.reader,
            path: self.path.join(Step::Key(key.to_owned())),
            aim: Aim::Value,
            value,
        })
    }

    /// Whether a key is there and not empty.
    pub(super) fn has(&self, key: &str) -> bool {
        match self.written {
            Written::Entries(entries) => entries.get(key).is_some_and(|value| !value.is_null()),
            Written::Absent | Written::Wrongly => false,
        }
    }

    /// The value of a key that must be there.
    pub(super) fn required(&mut self, wanted: Required) -> Option<Node<'a>> {
        let node = self.get(wanted.key);
        if node.is_none() {
            self.fault(wanted.key, format!("is missing: add `{}: {}`", wanted.key, wanted.example));
        }
        node
    }

    /// Notes that a key is wrong, whether it is there or not.
    pub(super) fn fault(&self, key: &'static str, message: impl Into<String>) {
        match self.written {
            Written::Entries(_) | Written::Absent => {
                self.reader.note(self.path.join(Step::Key(key.to_owned())), Aim::Value, message);
            }
            Written::Wrongly => {}
        }
    }

    /// A section inside; empty when it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        match self.get(key) {
            Some(node) => node.section(),
            None => Section::absent(self.reader, self.path.join(Step::Key(key.to_owned()))),
        }
    }

    /// A whole number with a default.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> T {
        let number = self.get(key).and_then(|node| node.number(range)).unwrap_or(default);
        T::try_from(number).ok().expect("the range fits the type")
    }

    /// A duration in milliseconds, at least one, with a default.
    pub(super) fn millis(&mut self, key: &'static str, default: u64) -> Duration {
        Duration::from_millis(self.number(key, 1..=DURATION_MS_MAX, default))
    }

    /// The same, where there is no default.
    pub(super) fn optional_millis(&mut self, key: &'static str) -> Option<Duration> {
        self.get(key).and_then(|node| node.number(1..=DURATION_MS_MAX)).map(Duration::from_millis)
    }

    /// One of a few words; the first is the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> T {
        let default = choices[0].1;
        let Some(node) = self.get(key) else { return default };
        let Some(text) = node.text() else { return default };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return *choice;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let meant = nearest(&text, words.iter().copied());
        let meant = meant.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
        node.fault(format!("must be {}{meant}", words.join(" or ")));
        default
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self) {
        let Written::Entries(entries) = self.written else { return };
        for key in entries.keys() {
            match key.as_str() {
                Some(key) if self.known.contains(&key) => {}
                Some(key) => {
                    let path = self.path.join(Step::Key(key.to_owned()));
                    self.reader.note(path, Aim::Key, self.unknown(key));
                }
                None => {
                    let message = format!("has a key that is {}: remove it", kind(key));
                    self.reader.note(self.path.clone(), Aim::Value, message);
                }
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        match nearest(key, self.known.iter().copied()) {
            Some(meant) => format!("unknown key `{key}`; did you mean `{meant}`?"),
            None => format!("unknown key `{key}`; known here: {}", self.known.join(", ")),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "tagged with `!`",
    }
}
