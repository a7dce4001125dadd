//! Changes to manifests in place: what is added goes before something whose place is known, in its neighbours' style.
//!
//! Invariant: nothing is added behind anything. Where a block scalar or a comment ends is a matter of opinion, where a key
//! begins is not.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::core::inject::emit::yaml;
use crate::core::inject::tree::{Kind, Node, Place};
use crate::core::inject::{AppChange, Injection};

/// Changes to a text, at places of the text as it was.
pub(super) struct Edits<'t> {
    pub(super) text: &'t str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    newline: &'static str,
    /// Byte range and what stands there afterwards.
    pub(super) changes: Vec<(std::ops::Range<usize>, String)>,
}

/// What is in the way of a change in place.
pub(super) type Obstacle = &'static str;

impl<'t> Edits<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { text, lines, newline, changes: Vec::new() }
    }

    /// Changes that were asked for later at the same place come later; `None` if one is within another.
    pub(super) fn apply(mut self) -> Option<String> {
        self.changes.sort_by_key(|(range, _)| range.start);
        let (mut text, mut at) = (String::with_capacity(self.text.len()), 0);
        for (range, new) in self.changes {
            text.push_str(self.text.get(at..range.start)?);
            text.push_str(&new);
            at = range.end;
        }
        Some(text + self.text.get(at..)?)
    }

    pub(super) fn line(&self, line: usize) -> usize {
        self.lines.get(line).copied().unwrap_or(self.text.len())
    }

    fn insert(&mut self, at: usize, new: String) {
        self.changes.push((at..at, new));
    }

    pub(super) fn is_first_of_line(&self, node: &Node) -> bool {
        self.text[self.line(node.start.line)..node.bytes.start].trim().is_empty()
    }

    /// The line before which something goes that is to stand before this key: above the comments that belong to it.
    fn above(&self, key: Place) -> usize {
        let mut line = key.line;
        while line > 0 {
            let before = &self.text[self.line(line - 1)..self.line(line)];
            let indent = before.len() - before.trim_start().len();
            if !before.trim_start().starts_with('#') || indent != key.column {
                break;
            }
            line -= 1;
        }
        line
    }

    /// Lines of YAML at this indentation.
    fn block(&self, indent: usize, lines: &[String]) -> String {
        lines.iter().map(|line| format!("{:indent$}{line}{}", "", self.newline)).collect()
    }

    /// Annotations of a pod template, in place of those of the same name.
    pub(super) fn annotate(&mut self, template: &Node, wanted: &BTreeMap<String, String>) -> Result<(), Obstacle> {
        let there = template.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let mut new = wanted.clone();
        for (name, value) in wanted {
            let Some(mapping) = there else { break };
            let Some((_, old)) = mapping.entry(name) else { continue };
            let at = old.bytes.start;
            let end = match (&old.kind, self.end_of_text(old)) {
                (Kind::Scalar { plain: true, .. }, Some(end)) => end,
                // The closing quote too.
                (Kind::Scalar { .. }, Some(end)) => end + 1,
                (Kind::Scalar { text, plain: false }, None) if text.is_empty() => at + 2,
                _ => return Err("an annotation of its pod template is written in several lines, or with escapes"),
            };
            self.changes.push((at..end, Value::from(value.as_str()).to_string()));
            new.remove(name);
        }
        if new.is_empty() { Ok(()) } else { self.add_annotations(template, &new) }
    }

    fn add_annotations(&mut self, template: &Node, new: &BTreeMap<String, String>) -> Result<(), Obstacle> {
        let annotations: Vec<(String, Value)> =
            new.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let annotations = Value::Object(annotations.into_iter().collect());
        match template.entry("metadata") {
            None => {
                let (spec_key, _) = template.entry("spec").ok_or("its pod template has no spec")?;
                self.add_key(template, spec_key, "metadata", &serde_json::json!({ "annotations": annotations }))?;
            }
            Some((_, metadata)) => match metadata.get("annotations") {
                Some(there) if !there.is_null() => self.add_entries(there, &annotations)?,
                Some(_) => return Err("its pod template has annotations without a value"),
                None => self.add_entries(metadata, &serde_json::json!({ "annotations": annotations }))?,
            },
        }
        Ok(())
    }

    pub(super) fn add(&mut self, template: &Node, injection: &Injection) -> Result<(), Obstacle> {
        let spec = template.get("spec").ok_or("its pod template has no spec")?;
        let (containers_key, containers) = spec.entry("containers").ok_or("its pod has no containers")?;
        self.add_annotations(template, &injection.annotations)?;
        for change in &injection.apps {
            let container = containers.items().get(change.container).ok_or("its containers are no list")?;
            self.add_to_app(container, self.deeper(containers_key, containers), change)?;
        }
        for (name, items, _) in injection.additions() {
            if items.is_empty() {
                continue;
            }
            match spec.get(name) {
                Some(there) if there.is_null() => return Err("a list of its pod has no value"),
                Some(there) => self.add_items(there, items)?,
                None => self.add_list(spec, containers_key, name, items, self.deeper(containers_key, containers))?,
            }
        }
        Ok(())
    }

    /// What an app's container gets; lists are indented by so much below their key.
    fn add_to_app(&mut self, container: &Node, deeper: usize, change: &AppChange) -> Result<(), Obstacle> {
        for (variable, own) in &change.joined {
            let variable = container.get("env").and_then(|env| env.items().get(*variable));
            let value =
                variable.and_then(|variable| variable.get("value")).ok_or("a variable of its app has no value")?;
            let end =
                self.end_of_text(value).ok_or("a variable of its app is written in several lines, or with escapes")?;
            self.insert(end, own.clone());
        }
        for (name, items) in [("env", &change.env), ("volumeMounts", &change.mounts)] {
            match container.get(name) {
                Some(there) if there.is_null() => return Err("a list of its app has no value"),
                Some(there) => self.add_items(there, items)?,
                None => {
                    let Kind::Mapping { entries, flow } = &container.kind else { return Err("its app is no mapping") };
                    // The first key stands behind the list's dash.
                    let (key, _) = entries
                        .iter()
                        .find(|(key, _)| *flow || self.is_first_of_line(key))
                        .ok_or("its app has no key with a line of its own")?;
                    self.add_list(container, key, name, items, deeper)?;
                }
            }
        }
        Ok(())
    }

    /// Behind the last character of a scalar that stands in the text as it is read.
    pub(super) fn end_of_text(&self, scalar: &Node) -> Option<usize> {
        let Kind::Scalar { text, plain } = &scalar.kind else { return None };
        let at = scalar.bytes.start;
        let (at, rest) = match self.text[at..].strip_prefix(['"', '\'']) {
            Some(rest) if !plain => (at + 1, rest),
            None if *plain => (at, &self.text[at..]),
            _ => return None,
        };
        let behind = rest.strip_prefix(&text[..])?;
        let ends = if *plain {
            behind.is_empty() || behind.starts_with([' ', '\t', '\r', '\n', ',', '}', ']'])
        } else {
            behind.starts_with(['"', '\''])
        };
        (ends && !text.is_empty()).then_some(at + text.len())
    }

    /// How much further right than its key a list's dashes stand.
    fn deeper(&self, key: &Node, list: &Node) -> usize {
        let dash = match &list.kind {
            Kind::Sequence { flow: false, items } => items.first().and_then(|item| self.dash(item)),
            _ => None,
        };
        dash.map_or(0, |dash| dash.column.saturating_sub(key.start.column))
    }

    /// A new key of a mapping, before another one.
    fn add_key(&mut self, mapping: &Node, before: &Node, key: &str, value: &Value) -> Result<(), Obstacle> {
        match &mapping.kind {
            Kind::Mapping { flow: true, .. } => {
                let new = format!("{}: {value}, ", Value::from(key));
                self.insert(before.bytes.start, new);
            }
            _ if self.is_first_of_line(before) => {
                let at = self.line(self.above(before.start));
                let mut lines = vec![format!("{key}:")];
                lines.extend(yaml(value).into_iter().map(|line| format!("  {line}")));
                let new = self.block(before.start.column, &lines);
                self.insert(at, new);
            }
            _ => return Err("the first key of its pod stands behind a dash"),
        }
        Ok(())
    }

    /// More entries of a mapping, before the others.
    fn add_entries(&mut self, mapping: &Node, new: &Value) -> Result<(), Obstacle> {
        let Kind::Mapping { flow, entries } = &mapping.kind else { return Err("its metadata is no mapping") };
        let Value::Object(map) = new else { return Ok(()) };
        match (flow, entries.first()) {
            (true, first) => {
                let inner = new.to_string();
                let inner = &inner[1..inner.len() - 1];
                self.insert_first(mapping, first.is_none(), inner);
            }
            (false, Some((first, _))) => {
                if !self.is_first_of_line(first) {
                    return Err("the first key of its metadata stands behind a dash");
                }
                let new = self.block(first.start.column, &yaml(&Value::Object(map.clone())));
                self.insert(self.line(first.start.line), new);
            }
            (false, None) => return Err("its metadata is empty"),
        }
        Ok(())
    }

    /// Before the first member of a collection in flow style. In an empty one a blank goes before it, by which it is known again
    /// as one that was there before: what is made for us has none.
    fn insert_first(&mut self, collection: &Node, is_empty: bool, inner: &str) {
        let open = collection.bytes.start + 1;
        if is_empty {
            self.insert(open, format!(" {inner}"));
        } else {
            self.insert(self.next_member(open), format!("{inner}, "));
        }
    }

    /// Where a member of a collection in flow style begins, its anchor and its tag included: behind blanks, comments and the
    /// comma that separates it from the one before.
    pub(super) fn next_member(&self, from: usize) -> usize {
        let mut at = from;
        loop {
            let rest = &self.text[at..];
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', ',']).len();
            at += blank;
            if !self.text[at..].starts_with('#') {
                return at;
            }
            at = self.text[at..].find('\n').map_or(self.text.len(), |end| at + end);
        }
    }

    /// More items of a list, before the others.
    fn add_items(&mut self, list: &Node, new: &[Value]) -> Result<(), Obstacle> {
        match &list.kind {
            Kind::Sequence { flow: true, items } => {
                let inner = new.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                self.insert_first(list, items.is_empty(), &inner);
                Ok(())
            }
            Kind::Sequence { flow: false, items } => {
                let dash = items
                    .first()
                    .and_then(|item| self.dash(item))
                    .ok_or("a list of its pod has no dashes of its own")?;
                let new = self.block(dash.column, &yaml(&new.into()));
                self.insert(self.line(dash.line), new);
                Ok(())
            }
            _ => Err("a list of its pod is no list"),
        }
    }

    /// A list that was not there, before this key.
    fn add_list(
        &mut self,
        mapping: &Node,
        key: &Node,
        name: &str,
        items: &[Value],
        deeper: usize,
    ) -> Result<(), Obstacle> {
        if matches!(mapping.kind, Kind::Mapping { flow: true, .. }) {
            return self.add_key(mapping, key, name, &items.into());
        }
        if !self.is_first_of_line(key) {
            return Err("the first key of its pod's spec stands behind a dash");
        }
        let mut lines = vec![format!("{name}:")];
        lines.extend(yaml(&items.into()).into_iter().map(|line| format!("{:deeper$}{line}", "")));
        let at = self.line(self.above(key.start));
        let new = self.block(key.start.column, &lines);
        self.insert(at, new);
        Ok(())
    }

    /// The dash of an item in block style: on its own line, or alone on one above it.
    pub(super) fn dash(&self, item: &Node) -> Option<Place> {
        let before = &self.text[self.line(item.start.line)..item.bytes.start];
        let lines = (0..item.start.line).rev().map(|line| (line, &self.text[self.line(line)..self.line(line + 1)]));
        for (line, text) in std::iter::once((item.start.line, before)).chain(lines) {
            let found = text.trim();
            if found == "-" || found.starts_with("- #") {
                return Some(Place { line, column: text.chars().position(|c| c == '-')? });
            }
            if !found.is_empty() && !found.starts_with('#') {
                return None;
            }
        }
        None
    }
}
