//! Changes to manifests in place: what is added goes before something whose place is known, in its neighbours' style.
//!
//! Invariant: nothing is added behind anything. Where a block scalar or a comment ends is a matter of opinion, where a key
//! begins is not.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::core::inject::apps::{Ours, ours};
use crate::core::inject::emit::yaml;
use crate::core::inject::tree::{Kind, Node, Place};
use crate::core::inject::{AppChange, INJECTED, Injection, LISTS, SHIM_VOLUME, is_ours};

/// Changes to a text, at places of the text as it was.
pub(super) struct Edits<'t> {
    text: &'t str,
    /// The byte at which each line begins.
    lines: Vec<usize>,
    newline: &'static str,
    /// Byte range and what stands there afterwards.
    changes: Vec<(std::ops::Range<usize>, String)>,
}

/// What is in the way of a change in place.
type Obstacle = &'static str;

impl<'t> Edits<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { text, lines, newline, changes: Vec::new() }
    }

    /// Changes that were asked for later at the same place come later.
    pub(super) fn apply(mut self) -> String {
        self.changes.sort_by_key(|(range, _)| range.start);
        let (mut text, mut at) = (String::with_capacity(self.text.len()), 0);
        for (range, new) in self.changes {
            text.push_str(&self.text[at..range.start]);
            text.push_str(&new);
            at = range.end;
        }
        text + &self.text[at..]
    }

    fn line(&self, line: usize) -> usize {
        self.lines.get(line).copied().unwrap_or(self.text.len())
    }

    fn offset(&self, place: Place) -> usize {
        let start = self.line(place.line);
        let rest = &self.text[start..];
        start + rest.char_indices().nth(place.column).map_or(rest.len(), |(at, _)| at)
    }

    fn insert(&mut self, at: usize, new: String) {
        self.changes.push((at..at, new));
    }

    fn is_alone_before(&self, place: Place) -> bool {
        self.text[self.line(place.line)..self.offset(place)].trim().is_empty()
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
            let at = self.offset(old.start);
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
                        .find(|(key, _)| *flow || self.is_alone_before(key.start))
                        .ok_or("its app has no key with a line of its own")?;
                    self.add_list(container, key, name, items, deeper)?;
                }
            }
        }
        Ok(())
    }

    /// Behind the last character of a scalar that stands in the text as it is read.
    fn end_of_text(&self, scalar: &Node) -> Option<usize> {
        let Kind::Scalar { text, plain } = &scalar.kind else { return None };
        let at = self.offset(scalar.start);
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
                self.insert(self.offset(before.start), new);
            }
            _ if self.is_alone_before(before.start) => {
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
                let at = self.offset(mapping.start) + 1;
                let new = if first.is_some() { format!("{inner}, ") } else { inner.to_owned() };
                self.insert(at, new);
            }
            (false, Some((first, _))) => {
                if !self.is_alone_before(first.start) {
                    return Err("the first key of its metadata stands behind a dash");
                }
                let new = self.block(first.start.column, &yaml(&Value::Object(map.clone())));
                self.insert(self.line(first.start.line), new);
            }
            (false, None) => return Err("its metadata is empty"),
        }
        Ok(())
    }

    /// More items of a list, before the others.
    fn add_items(&mut self, list: &Node, new: &[Value]) -> Result<(), Obstacle> {
        match &list.kind {
            Kind::Sequence { flow: true, items } => {
                let mut inner = new.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                if !items.is_empty() {
                    inner.push_str(", ");
                }
                self.insert(self.offset(list.start) + 1, inner);
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
        if !self.is_alone_before(key.start) {
            return Err("the first key of its pod's spec stands behind a dash");
        }
        let mut lines = vec![format!("{name}:")];
        lines.extend(yaml(&items.into()).into_iter().map(|line| format!("{:deeper$}{line}", "")));
        let at = self.line(self.above(key.start));
        let new = self.block(key.start.column, &lines);
        self.insert(at, new);
        Ok(())
    }

    pub(super) fn remove(&mut self, template: &Node) {
        if let Some((key, metadata)) = template.entry("metadata")
            && let Some((annotations_key, annotations)) = metadata.entry("annotations")
        {
            let alone = |mapping: &Node| matches!(&mapping.kind, Kind::Mapping { entries, .. } if entries.len() == 1);
            let is_block = |mapping: &Node| matches!(mapping.kind, Kind::Mapping { flow: false, .. });
            // What was made for our annotation goes with it. In a block we make blocks: what is not one was there before.
            let ours = |mapping: &Node, parent: &Node| alone(mapping) && (is_block(mapping) || !is_block(parent));
            if !ours(annotations, metadata) {
                if let Some((key, value)) = annotations.entry(INJECTED) {
                    self.remove_entry(annotations, key, value);
                }
            } else if ours(metadata, template) {
                self.remove_entry(template, key, metadata);
            } else {
                self.remove_entry(metadata, annotations_key, annotations);
            }
        }
        let Some(spec) = template.get("spec") else { return };
        let text = |item: &Node, key: &str| item.get(key).and_then(Node::text).map(str::to_owned);
        let ours = |item: &Node| is_ours(text(item, "name").as_deref(), text(item, "conditionType").as_deref());
        for container in spec.get("containers").map(Node::items).unwrap_or_default() {
            // What is ours goes as a whole.
            if !ours(container) {
                self.remove_from_app(container);
            }
        }
        for name in LISTS {
            self.remove_items(spec, name, ours);
        }
    }

    fn remove_from_app(&mut self, container: &Node) {
        let text = |item: &Node, key: &str| item.get(key).and_then(Node::text).map(str::to_owned);
        let ours = |item: &Node| ours(text(item, "name").as_deref(), text(item, "value").as_deref());
        for item in container.get("env").map(Node::items).unwrap_or_default() {
            if let (Some(Ours::Behind(own)), Some(value)) = (ours(item), item.get("value"))
                && let Some(end) = self.end_of_text(value)
            {
                self.changes.push((end - own.len()..end, String::new()));
            }
        }
        self.remove_items(container, "env", |item| ours(item) == Some(Ours::Whole));
        self.remove_items(container, "volumeMounts", |item| text(item, "name").as_deref() == Some(SHIM_VOLUME));
    }

    /// Takes items from a list of a mapping, and the list if it was made for them.
    fn remove_items(&mut self, mapping: &Node, name: &str, ours: impl Fn(&Node) -> bool) {
        let Some((key, list)) = mapping.entry(name) else { return };
        let items = list.items();
        let is_block = matches!(list.kind, Kind::Sequence { flow: false, .. });
        let in_flow = matches!(mapping.kind, Kind::Mapping { flow: true, .. });
        if !items.is_empty() && items.iter().all(&ours) && (is_block || in_flow) {
            self.remove_entry(mapping, key, list);
            return;
        }
        for (i, item) in items.iter().enumerate().filter(|(_, item)| ours(item)) {
            if is_block {
                let from = self.dash(item).map_or(item.start.line, |dash| dash.line);
                self.changes.push((self.line(from)..self.line(item.last_line + 1), String::new()));
            } else {
                let from = self.offset(item.start);
                let to = items.get(i + 1).map_or_else(|| self.end_of_flow(list), |next| self.offset(next.start));
                self.changes.push((from..to, String::new()));
            }
        }
    }

    /// The dash of an item in block style: on its own line, or alone on one above it.
    fn dash(&self, item: &Node) -> Option<Place> {
        let before = &self.text[self.line(item.start.line)..self.offset(item.start)];
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

    /// The closing bracket of a list of ours in flow style: it is on the last line, the first behind the last item.
    fn end_of_flow(&self, list: &Node) -> usize {
        let last = list.items().last().map_or_else(|| self.offset(list.start), |item| self.offset(item.start));
        matching(self.text, last)
    }

    fn remove_entry(&mut self, mapping: &Node, key: &Node, value: &Node) {
        match &mapping.kind {
            Kind::Mapping { flow: true, entries } => {
                let next = entries.iter().skip_while(|(other, _)| other.start != key.start).nth(1);
                let from = self.offset(key.start);
                let to = next.map_or_else(|| self.end_of_value(value), |(next, _)| self.offset(next.start));
                self.changes.push((from..to, String::new()));
            }
            _ => self.changes.push((self.line(key.start.line)..self.line(value.last_line + 1), String::new())),
        }
    }

    fn end_of_value(&self, value: &Node) -> usize {
        let from = self.offset(value.start);
        match &value.kind {
            Kind::Sequence { .. } | Kind::Mapping { .. } => matching(self.text, from),
            _ => from + self.text[from..].find(['}', ',', '\n']).unwrap_or(0),
        }
    }
}

/// Behind the bracket that closes the one here; quoted text is skipped.
fn matching(text: &str, from: usize) -> usize {
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (at, c) in text[from..].char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => {
                depth -= 1;
                if depth == 0 {
                    return from + at + 1;
                }
            }
            (None, _) => {}
        }
    }
    text.len()
}
