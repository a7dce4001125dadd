//! What was added to manifests, taken away in place.
//!
//! Invariant: a collection that was there before stays, empty if it was; one that was made for what is ours goes with it.

use crate::core::inject::apps::{Ours, ours};
use crate::core::inject::edits::{Edits, Obstacle};
use crate::core::inject::tree::{Kind, Node};
use crate::core::inject::{INJECTED, LISTS, SHIM_VOLUME, is_ours};

/// A list's name, and which of its items are ours.
type List<'a> = (&'static str, &'a dyn Fn(&Node) -> bool);

impl Edits<'_> {
    pub(super) fn remove(&mut self, template: &Node) -> Result<(), Obstacle> {
        self.remove_annotation(template)?;
        let Some(spec) = template.get("spec") else { return Ok(()) };
        let ours = |item: &Node| is_ours(text(item, "name"), text(item, "conditionType"));
        for container in spec.get("containers").map(Node::items).unwrap_or_default() {
            // What is ours goes as a whole.
            if !ours(container) {
                self.remove_from_app(container)?;
            }
        }
        self.remove_from_lists(spec, &LISTS.map(|name| (name, &ours as &dyn Fn(&Node) -> bool)))
    }

    fn remove_annotation(&mut self, template: &Node) -> Result<(), Obstacle> {
        let Some(metadata) = template.get("metadata") else { return Ok(()) };
        let Some(annotations) = metadata.get("annotations") else { return Ok(()) };
        let alone = |mapping: &Node| matches!(&mapping.kind, Kind::Mapping { entries, .. } if entries.len() == 1);
        if !(alone(annotations) && self.was_made(annotations, metadata)) {
            self.remove_entries(annotations, &[INJECTED])
        } else if alone(metadata) && self.was_made(metadata, template) {
            self.remove_entries(template, &["metadata"])
        } else {
            self.remove_entries(metadata, &["annotations"])
        }
    }

    fn remove_from_app(&mut self, container: &Node) -> Result<(), Obstacle> {
        let ours = |item: &Node| ours(text(item, "name"), text(item, "value"));
        for item in container.get("env").map(Node::items).unwrap_or_default() {
            if let (Some(Ours::Behind(own)), Some(value)) = (ours(item), item.get("value")) {
                let end = self.end_of_text(value);
                let end = end.ok_or("a variable of its app is written in several lines, or with escapes")?;
                self.changes.push((end - own.len()..end, String::new()));
            }
        }
        let whole = |item: &Node| ours(item) == Some(Ours::Whole);
        let mount = |item: &Node| text(item, "name") == Some(SHIM_VOLUME);
        self.remove_from_lists(container, &[("env", &whole), ("volumeMounts", &mount)])
    }

    /// Takes items from lists of a mapping, and lists that were made for them.
    fn remove_from_lists(&mut self, mapping: &Node, lists: &[List<'_>]) -> Result<(), Obstacle> {
        let mut whole = Vec::new();
        for (name, ours) in lists {
            let Some(list) = mapping.get(name) else { continue };
            let items = list.items();
            if !items.is_empty() && items.iter().all(ours) && self.was_made(list, mapping) {
                whole.push(*name);
            } else if matches!(list.kind, Kind::Sequence { flow: true, .. }) {
                let members: Vec<_> = items.iter().map(|item| (item, item, ours(item))).collect();
                self.remove_members(list, &members);
            } else {
                for item in items.iter().filter(|item| ours(item)) {
                    let from = self.dash(item).map_or(item.start.line, |dash| dash.line);
                    self.changes.push((self.line(from)..self.line(item.last_line + 1), String::new()));
                }
            }
        }
        self.remove_entries(mapping, &whole)
    }

    /// Whether a collection that holds nothing but what is ours was made for it. In a block we make blocks, so what is not
    /// one was there before; so was one in flow style with a blank behind its bracket.
    fn was_made(&self, collection: &Node, parent: &Node) -> bool {
        let is_flow =
            |node: &Node| matches!(node.kind, Kind::Mapping { flow: true, .. } | Kind::Sequence { flow: true, .. });
        !is_flow(collection) || (is_flow(parent) && !self.was_empty(collection))
    }

    /// Whether what is in a collection in flow style was put into an empty one.
    fn was_empty(&self, collection: &Node) -> bool {
        let open = collection.bytes.start + 1;
        self.text[open..self.next_member(open)] == *" "
    }

    fn remove_entries(&mut self, mapping: &Node, names: &[&str]) -> Result<(), Obstacle> {
        let Kind::Mapping { flow, entries } = &mapping.kind else { return Ok(()) };
        let goes = |key: &Node| key.text().is_some_and(|name| names.contains(&name));
        if *flow {
            let members: Vec<_> = entries.iter().map(|(key, value)| (key, value, goes(key))).collect();
            self.remove_members(mapping, &members);
            return Ok(());
        }
        let mut rest = &entries[..];
        if !entries.is_empty() && entries.iter().all(|(key, _)| goes(key)) {
            return Err("a part of its pod has nothing but what was added");
        }
        // Behind a dash, as who sorts keys puts it: the first that stays takes its place.
        if let Some((first, _)) = rest.first().filter(|(key, _)| goes(key) && !self.is_first_of_line(key)) {
            let stays = rest.iter().position(|(key, _)| !goes(key)).unwrap_or_default();
            self.changes.push((first.bytes.start..rest[stays].0.bytes.start, String::new()));
            rest = &rest[stays..];
        }
        for (key, value) in rest.iter().filter(|(key, _)| goes(key)) {
            self.changes.push((self.line(key.start.line)..self.line(value.last_line + 1), String::new()));
        }
        Ok(())
    }

    /// Takes members from a collection in flow style, with a comma each: of each its first and last node, and whether it goes.
    fn remove_members(&mut self, collection: &Node, members: &[(&Node, &Node, bool)]) {
        let open = collection.bytes.start + 1;
        let mut from = open;
        let mut places = Vec::with_capacity(members.len());
        for (first, last, _) in members {
            let end = last.bytes.end.max(first.bytes.end);
            places.push(self.next_member(from)..end);
            from = end;
        }
        let stay = members.iter().rposition(|(.., goes)| !goes);
        let mut take = |range| self.changes.push((range, String::new()));
        let tail = stay.map_or(0, |stay| stay + 1);
        for (i, _) in members.iter().enumerate().take(tail).filter(|(_, (.., goes))| *goes) {
            take(places[i].start..places[i + 1].start);
        }
        let (Some(first), Some(last)) = (places.get(tail), places.last()) else { return };
        match stay {
            Some(stay) => {
                let between = places[stay].end..first.start;
                match self.text[between.clone()].find('#') {
                    // A comment stays, and of what is before it the comma alone goes.
                    Some(comment) => {
                        let comma = self.text[between.start..between.start + comment].find(',');
                        let comma = comma.map(|comma| between.start + comma);
                        self.changes.extend(comma.map(|comma| (comma..comma + 1, String::new())));
                        self.changes.push((first.start..last.end, String::new()));
                    }
                    None => self.changes.push((between.start..last.end, String::new())),
                }
            }
            None => {
                let from = if self.was_empty(collection) { open } else { first.start };
                let behind = self.text[last.end..].trim_start();
                let comma = behind.starts_with(',').then(|| self.text.len() - behind.len() + 1);
                self.changes.push((from..comma.unwrap_or(last.end), String::new()));
            }
        }
    }
}

fn text<'n>(item: &'n Node, key: &str) -> Option<&'n str> {
    item.get(key).and_then(Node::text)
}
