//! Manifests as text: what is added or taken away changes its own lines, and comments and order stay.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::core::inject::edits::Edits;
use crate::core::inject::tree::{self, Kind, Node};
use crate::core::inject::{Options, Refused, is_injected, plan};

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
}

/// Adds to every pod template of these manifests; what is there of ours is replaced.
///
/// # Errors
/// See [`Untouched`].
pub fn inject(text: &str, options: &Options) -> Result<Edited, Untouched> {
    let before = uninject(text)?.text;
    let mut edited = Edited::default();
    let mut edits = Edits::new(&before);
    for found in templates(&before)? {
        let object = found.object.clone();
        if found.node.has_aliases() {
            return Err(Untouched::Style { object, reason: "its pod template has YAML anchors or merge keys" });
        }
        let planned = plan(&found.kind, &found.name, &found.node.value(), options);
        let planned = planned.map_err(|reason| Untouched::Refused { object: object.clone(), reason })?;
        let Some(injection) = planned else {
            edited.notes.push((object, "it is annotated not to be injected".to_owned()));
            continue;
        };
        edits.add(&found.node, &injection).map_err(|reason| Untouched::Style { object: object.clone(), reason })?;
        edited.notes.extend(injection.notes.iter().map(|note| (object.clone(), note.clone())));
        edited.changed.push(object);
    }
    edited.text = edits.apply();
    Ok(edited)
}

/// Takes away what [`inject`] added.
///
/// # Errors
/// See [`Untouched`].
pub fn uninject(text: &str) -> Result<Edited, Untouched> {
    let mut edited = Edited::default();
    let mut edits = Edits::new(text);
    for found in templates(text)? {
        if is_injected(&found.node.value()) {
            edits.remove(&found.node);
            edited.changed.push(found.object);
        }
    }
    edited.text = edits.apply();
    Ok(edited)
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
    let mut edited = Edited::default();
    let mut edits = Edits::new(text);
    for found in templates(text)? {
        let object = found.object;
        let present = &found.node.value()["metadata"]["annotations"];
        let Some(mut wanted) = wanted(&object, present) else { continue };
        wanted.retain(|name, value| present[&name[..]] != value.as_str());
        if wanted.is_empty() {
            continue;
        }
        if found.node.has_aliases() {
            return Err(Untouched::Style { object, reason: "its pod template has YAML anchors or merge keys" });
        }
        edits.annotate(&found.node, &wanted).map_err(|reason| Untouched::Style { object: object.clone(), reason })?;
        edited.changed.push(object);
    }
    edited.text = edits.apply();
    Ok(edited)
}

/// A pod template, and whose it is.
struct Found {
    kind: String,
    name: String,
    object: String,
    node: Node,
}

fn templates(text: &str) -> Result<Vec<Found>, Untouched> {
    let mut found = Vec::new();
    for document in tree::documents(text).map_err(Untouched::Unreadable)?.into_iter().flatten() {
        collect(document, &mut found);
    }
    Ok(found)
}

fn collect(node: Node, found: &mut Vec<Found>) {
    let word = |path: &[&str]| path.iter().try_fold(&node, |node, key| node.get(key)).and_then(Node::text);
    let kind = word(&["kind"]).unwrap_or_default().to_owned();
    if kind == "List" {
        if let Some(Kind::Sequence { items, .. }) = take(node, &["items"]).map(|node| node.kind) {
            items.into_iter().for_each(|item| collect(item, found));
        }
        return;
    }
    let path: &[&str] = match &kind[..] {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "AkkaCluster" => {
            &["spec", "template"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        "Pod" => &[],
        _ => return,
    };
    let name = word(&["metadata", "name"]).or_else(|| word(&["metadata", "generateName"])).unwrap_or_default();
    let name = name.trim_end_matches('-').to_owned();
    let namespace = word(&["metadata", "namespace"]).unwrap_or("default");
    let object = format!("{}/{namespace}/{name}", kind.to_lowercase());
    if let Some(node) = take(node, path) {
        found.push(Found { kind, name, object, node });
    }
}

fn take(node: Node, path: &[&str]) -> Option<Node> {
    path.iter().try_fold(node, |node, key| match node.kind {
        Kind::Mapping { entries, .. } => {
            entries.into_iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
        }
        _ => None,
    })
}
