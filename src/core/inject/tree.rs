//! YAML with the places where each thing stands, so that it can be changed without being written anew.

use std::collections::BTreeSet;
use std::ops::Range;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StructureStyle};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::core::inject::schema::{Tag, resolve};

/// Kubernetes' own objects nest some thirty levels deep.
const DEEPEST: usize = 100;

/// A node of a document.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Where it begins: a block sequence at its first dash, a flow collection at its bracket.
    pub(super) start: Place,
    /// Its bytes in the text, without anchor and tag; where a block collection or a block scalar ends is not said.
    pub(super) bytes: Range<usize>,
    pub(super) tag: Option<Tag>,
    /// The last line that holds something of it, from 0. Of a block scalar it is an upper bound.
    pub(super) last_line: usize,
}

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 0.
    pub(super) line: usize,
    /// In characters, from 0.
    pub(super) column: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence {
        flow: bool,
        items: Vec<Node>,
    },
    Mapping {
        flow: bool,
        entries: Vec<(Node, Node)>,
    },
    /// `*name`; what it stands for is elsewhere.
    Alias,
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    /// A key and its value.
    pub(super) fn entry(&self, key: &str) -> Option<(&Self, &Self)> {
        let Kind::Mapping { entries, .. } = &self.kind else { return None };
        entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(name, value)| (name, value))
    }

    /// The items of a sequence.
    pub(super) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::Sequence { items, .. } => items,
            _ => &[],
        }
    }

    /// A scalar's text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether a value was left out: `key:` and nothing, or null.
    pub(super) fn is_null(&self) -> bool {
        let Kind::Scalar { text, plain } = &self.kind else { return false };
        let is_resolved = self.tag.map_or(*plain, |tag| tag == Tag::Plain);
        is_resolved && matches!(&text[..], "" | "~" | "null" | "Null" | "NULL")
    }

    /// The node as data; an alias is null.
    pub(super) fn value(&self) -> Value {
        match (&self.kind, self.tag) {
            (Kind::Alias, _) => Value::Null,
            (Kind::Scalar { text, plain: true }, None) | (Kind::Scalar { text, .. }, Some(Tag::Plain)) => resolve(text),
            (Kind::Scalar { text, .. }, _) => text.as_str().into(),
            (Kind::Sequence { items, .. }, _) => items.iter().map(Self::value).collect(),
            (Kind::Mapping { entries, .. }, _) => {
                let entries = entries.iter().filter_map(|(key, value)| Some((key.text()?.to_owned(), value.value())));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }
}

/// Reads all documents; an empty one is `None`.
///
/// # Errors
/// Line and column, and what is wrong there.
pub(super) fn documents(text: &str) -> Result<Vec<Option<Node>>, String> {
    check_lines(text)?;
    let mut reader = Reader { parser: Parser::new_from_str(text), length: text.chars().count() };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::DocumentStart(..), _) => {
                let (event, span) = reader.next()?;
                let node = reader.node(event, span, 0)?;
                documents.push(Some(node).filter(|node| !node.is_null()));
            }
            (Event::StreamEnd, _) => return Ok(documents),
            _ => {}
        }
    }
}

/// Whether all parsers see the same lines. Of YAML 1.1, which kubectl reads, a lone carriage return and some others end a
/// line, of YAML 1.2 they do not; and a byte order mark is a space to some and an error to others.
fn check_lines(text: &str) -> Result<(), String> {
    let mut line = 1;
    let mut is_json = None;
    for (at, c) in text.char_indices() {
        let what = match c {
            '\n' => {
                line += 1;
                continue;
            }
            '\r' if text[at + 1..].starts_with('\n') => continue,
            '\r' => "a carriage return without a line feed",
            '\u{85}' => "a next line (U+0085)",
            '\u{2028}' => "a line separator (U+2028)",
            '\u{2029}' => "a paragraph separator (U+2029)",
            '\u{feff}' if at > 0 => "a byte order mark (U+FEFF)",
            _ => continue,
        };
        // In JSON's strings they are characters as others are.
        if c != '\r' && *is_json.get_or_insert_with(|| is_strict_json(text)) {
            continue;
        }
        return Err(format!(
            "line {line}: {what}, which some parsers take for a line's end, and others do not; remove it, or write it as an \
             escape in double quotes"
        ));
    }
    Ok(())
}

fn is_strict_json(text: &str) -> bool {
    serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>().all(|value| value.is_ok())
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    /// Of the text, in characters.
    length: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), String> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Ok((Event::StreamEnd, Span::empty(Marker::new(0, 1, 0)))),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, String> {
        let start = place(&span.start);
        if depth > DEEPEST {
            return Err(format!("line {}: nested more than {DEEPEST} levels deep", start.line + 1));
        }
        let tag = event.tag().map(|tag| Tag::new(tag.core_suffix()));
        let bytes = bytes(&span);
        match event {
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let end = place(&span.end);
                // The parser is at what comes next then, on a line of its own.
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let last_line = if text.is_empty() && plain {
                    start.line
                } else if is_block && end.line > start.line && span.end.index() < self.length {
                    end.line - 1
                } else {
                    last_line(&span)
                };
                Ok(Node { kind: Kind::Scalar { text: text.into_owned(), plain }, start, bytes, tag, last_line })
            }
            Event::Alias(_) => Ok(Node { kind: Kind::Alias, start, bytes, tag, last_line: start.line }),
            Event::SequenceStart(style, ..) => {
                let (mut items, mut last) = (Vec::new(), start.line);
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => {
                            let flow = style == StructureStyle::Flow;
                            let last_line = if flow { place(&end.start).line } else { last };
                            let bytes = bytes.start..self::bytes(&end).end;
                            return Ok(Node { kind: Kind::Sequence { flow, items }, start, bytes, tag, last_line });
                        }
                        (event, span) => {
                            let item = self.node(event, span, depth + 1)?;
                            last = last.max(item.last_line);
                            items.push(item);
                        }
                    }
                }
            }
            Event::MappingStart(style, ..) => {
                let (mut entries, mut last) = (Vec::new(), start.line);
                let mut keys = BTreeSet::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, end) => {
                            let flow = style == StructureStyle::Flow;
                            let last_line = if flow { place(&end.start).line } else { last };
                            let bytes = bytes.start..self::bytes(&end).end;
                            return Ok(Node { kind: Kind::Mapping { flow, entries }, start, bytes, tag, last_line });
                        }
                        (event, span) => {
                            let key = self.node(event, span, depth + 1)?;
                            // Parsers do not agree on which of the two counts.
                            if key.text().is_some_and(|text| !keys.insert(text.to_owned())) {
                                let (line, key) = (key.start.line + 1, key.text().unwrap_or_default());
                                return Err(format!("line {line}: the key {key:?} is there twice"));
                            }
                            let (event, span) = self.next()?;
                            let value = self.node(event, span, depth + 1)?;
                            last = last.max(key.last_line).max(if value.is_null() { 0 } else { value.last_line });
                            entries.push((key, value));
                        }
                    }
                }
            }
            other => Err(format!("line {}: {other:?} where a value was expected", start.line + 1)),
        }
    }
}

/// The parser knows them of every text that it has as a whole.
fn bytes(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or_default()
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().saturating_sub(1), column: marker.col() }
}

fn last_line(span: &Span) -> usize {
    let end = place(&span.end);
    if end.column == 0 && end.line > place(&span.start).line { end.line - 1 } else { end.line }
}
