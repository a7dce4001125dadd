//! Manifests as text: what is added or taken away changes its own lines, and comments and order stay.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::core::inject::edits::{Edits, Obstacle};
use crate::core::inject::templates::{Found, templates};
use crate::core::inject::tree::{self, Kind, Node};
use crate::core::inject::value::{add_first, without_empty};
use crate::core::inject::{Options, Refused, is_injected, plan, remove};

/// Manifests after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The whole text.
    pub text: String,
    /// What was changed, `kind/namespace/name`.
    pub changed: Vec<String>,
    /// What somebody should know: the object, and what.
    pub notes: Vec<(String, String)>,
}

/// Why manifests were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untouched {
    /// No YAML and no JSON.
    #[error("this is neither YAML nor JSON: {0}")]
    Unreadable(String),
    /// A pod that cannot be helped.
    #[error("{object}: {reason}")]
    Refused {
        /// `kind/namespace/name`.
        object: String,
        /// Why.
        #[source]
        reason: Refused,
    },
    /// Written in a way that cannot be changed in place.
    #[error("{object}: {reason}; `kubectl create --dry-run=client -o yaml -f FILE` writes it plainly")]
    Style {
        /// `kind/namespace/name`.
        object: String,
        /// What is in the way.
        reason: &'static str,
    },
    /// It cannot be seen what pod comes of it.
    #[error(
        "document {document}, line {line}: {part} has {how}; write it plainly, as \
         `kubectl create --dry-run=client -o yaml -f FILE` does"
    )]
    Hidden {
        /// Which of the text's, from 1.
        document: usize,
        /// From 1.
        line: usize,
        /// What cannot be read.
        part: String,
        /// Why not.
        how: &'static str,
    },
    /// What was written does not say what was meant.
    #[error(
        "internal error: after the change it would not say what was planned, so nothing is written; \
         `kubectl create --dry-run=client -o yaml -f FILE` writes it in another way, which may do; please report it with \
         the manifest"
    )]
    Wrong,
}

/// Adds to every pod template of these manifests; what is there of ours is replaced.
///
/// # Errors
/// See [`Untouched`].
pub fn inject(text: &str, options: &Options) -> Result<Edited, Untouched> {
    let before = uninject(text)?.text;
    let documents = read(&before)?;
    let mut change = Change::new(&before);
    for found in templates(&documents)? {
        found.check_plain()?;
        let mut template = found.node.value();
        let planned = plan(&found.kind, &found.name, &template, options);
        let planned = planned.map_err(|reason| Untouched::Refused { object: found.object.clone(), reason })?;
        let Some(injection) = planned else {
            change.edited.notes.push((found.object, "it is annotated not to be injected".to_owned()));
            continue;
        };
        let done = change.edits.add(found.node, &injection);
        add_first(&mut template, &injection);
        let notes = injection.notes.into_iter().map(|note| (found.object.clone(), note));
        change.edited.notes.extend(notes);
        change.done(found, template, done)?;
    }
    change.finish(&documents, |value| value)
}

/// Takes away what [`inject`] added.
///
/// # Errors
/// See [`Untouched`].
pub fn uninject(text: &str) -> Result<Edited, Untouched> {
    let documents = read(text)?;
    let mut change = Change::new(text);
    for found in templates(&documents)? {
        let mut template = found.node.value();
        if is_injected(&template) {
            let done = change.edits.remove(found.node);
            remove(&mut template);
            change.done(found, without_empty(template), done)?;
        }
    }
    // As text what was empty before stays so, as data it goes.
    change.finish(&documents, without_empty)
}

/// Gives pod templates annotations: `wanted` has the object, `kind/namespace/name`, and the annotations that are there;
/// those of the same name are replaced. `None` leaves a template as it is.
///
/// # Errors
/// See [`Untouched`].
pub fn annotate(
    text: &str,
    wanted: impl Fn(&str, &Value) -> Option<BTreeMap<String, String>>,
) -> Result<Edited, Untouched> {
    let documents = read(text)?;
    let mut change = Change::new(text);
    for found in templates(&documents)? {
        let mut template = found.node.value();
        let present = &template["metadata"]["annotations"];
        let Some(mut wanted) = wanted(&found.object, present) else { continue };
        wanted.retain(|name, value| present[&name[..]] != value.as_str());
        if wanted.is_empty() {
            continue;
        }
        found.check_plain()?;
        let done = change.edits.annotate(found.node, &wanted);
        for (name, value) in wanted {
            // What is no mapping is an obstacle.
            if done.is_ok() {
                template["metadata"]["annotations"][name] = value.into();
            }
        }
        change.done(found, template, done)?;
    }
    change.finish(&documents, |value| value)
}

fn read(text: &str) -> Result<Vec<Option<Node>>, Untouched> {
    tree::documents(text).map_err(Untouched::Unreadable)
}

/// Edits of a text, and what is to come of them.
struct Change<'t, 'n> {
    edits: Edits<'t>,
    /// Templates that change, in the order of the text, and what they are to say.
    planned: Vec<(&'n Node, Value)>,
    edited: Edited,
}

impl<'t, 'n> Change<'t, 'n> {
    fn new(text: &'t str) -> Self {
        Self { edits: Edits::new(text), planned: Vec::new(), edited: Edited::default() }
    }

    fn done(&mut self, found: Found<'n>, planned: Value, done: Result<(), Obstacle>) -> Result<(), Untouched> {
        done.map_err(|reason| Untouched::Style { object: found.object.clone(), reason })?;
        self.planned.push((found.node, planned));
        self.edited.changed.push(found.object);
        Ok(())
    }

    /// The text after the change, which another look at it has shown to say what was planned, and all else what it said.
    fn finish(self, before: &[Option<Node>], as_planned: impl Fn(Value) -> Value) -> Result<Edited, Untouched> {
        let Self { edits, planned, mut edited } = self;
        edited.text = edits.apply().ok_or(Untouched::Wrong)?;
        if planned.is_empty() {
            return Ok(edited);
        }
        let after = tree::documents(&edited.text).map_err(|_| Untouched::Wrong)?;
        let mut planned = planned.into_iter().peekable();
        let mut is_same = |before: &Node, after: &Node| is_same(before, after, &mut planned, &as_planned);
        let is_right = before.len() == after.len()
            && before.iter().zip(&after).all(|pair| match pair {
                (Some(before), Some(after)) => is_same(before, after),
                (before, after) => before.is_none() && after.is_none(),
            });
        if is_right && planned.next().is_none() { Ok(edited) } else { Err(Untouched::Wrong) }
    }
}

type Planned<'n> = std::iter::Peekable<std::vec::IntoIter<(&'n Node, Value)>>;

fn is_same(before: &Node, after: &Node, planned: &mut Planned<'_>, as_planned: &impl Fn(Value) -> Value) -> bool {
    if let Some((_, template)) = planned.next_if(|(node, _)| std::ptr::eq(*node, before)) {
        return as_planned(after.value()) == template;
    }
    if before.tag != after.tag {
        return false;
    }
    match (&before.kind, &after.kind) {
        (Kind::Alias, Kind::Alias) => true,
        (Kind::Scalar { text, plain }, Kind::Scalar { text: other, plain: is_plain }) => {
            text == other && plain == is_plain
        }
        (Kind::Sequence { items, .. }, Kind::Sequence { items: others, .. }) => {
            items.len() == others.len()
                && items.iter().zip(others).all(|(before, after)| is_same(before, after, planned, as_planned))
        }
        (Kind::Mapping { entries, .. }, Kind::Mapping { entries: others, .. }) => {
            let pairs = entries.iter().zip(others);
            entries.len() == others.len()
                && pairs.into_iter().all(|((key, value), (other, after))| {
                    is_same(key, other, planned, as_planned) && is_same(value, after, planned, as_planned)
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kind: Pod\nspec:\n  containers: [{name: a}]\n";

    /// What comes of a pod's text when these are its edits, and nothing is to change.
    fn finished(edits: &[(std::ops::Range<usize>, &str)]) -> Result<String, Untouched> {
        let documents = read(POD)?;
        let mut change = Change::new(POD);
        let found = templates(&documents)?.remove(0);
        let planned = found.node.value();
        change.done(found, planned, Ok(()))?;
        change.edits.changes.extend(edits.iter().map(|(range, new)| (range.clone(), (*new).to_owned())));
        change.finish(&documents, |value| value).map(|edited| edited.text)
    }

    #[test]
    fn what_does_not_say_what_was_planned_is_not_written() {
        assert_eq!(finished(&[]), Ok(POD.to_owned()));
        assert_eq!(finished(&[(0..0, "# a comment\n")]), Ok(format!("# a comment\n{POD}")));
        for wrong in [
            &[(10..10, "metadata: {}\n")][..],
            &[(20..22, "")],
            &[(0..0, "---\na: b\n---\n")],
            &[(0..0, "{")],
            &[(2..6, ""), (4..8, "")],
            &[(0..POD.len(), "")],
        ] {
            assert_eq!(finished(wrong), Err(Untouched::Wrong), "{wrong:?}");
        }
    }
}
