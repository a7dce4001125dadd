//! Where in manifests pod templates are.
//!
//! Invariant: a template is found, or it can be seen that there is none; what an alias, a merge key or an unusual tag
//! hides is refused.

use crate::core::inject::schema::Tag;
use crate::core::inject::text::Untouched;
use crate::core::inject::tree::{Kind, Node};

/// A pod template, and whose it is.
pub(super) struct Found<'n> {
    pub(super) kind: String,
    pub(super) name: String,
    /// `kind/namespace/name`.
    pub(super) object: String,
    /// From 1.
    document: usize,
    pub(super) node: &'n Node,
}

impl Found<'_> {
    /// Refuses a template of which something stands elsewhere.
    pub(super) fn check_plain(&self) -> Result<(), Untouched> {
        hidden_within(self.node).map_or(Ok(()), |(line, how)| {
            let part = format!("the pod template of {}", self.object);
            Err(Untouched::Hidden { document: self.document, line, part, how })
        })
    }
}

/// All pod templates, in the order in which they stand there.
pub(super) fn templates(documents: &[Option<Node>]) -> Result<Vec<Found<'_>>, Untouched> {
    let mut found = Vec::new();
    for (i, node) in documents.iter().enumerate() {
        if let Some(node) = node {
            collect(Way { document: i + 1, object: None }, node, "", &mut found)?;
        }
    }
    Ok(found)
}

/// What leads to a template.
struct Way {
    document: usize,
    object: Option<String>,
}

impl Way {
    /// A node that says itself what it is.
    fn open(&self, part: &str, node: &Node) -> Result<(), Untouched> {
        let Some((line, how)) = hidden(node) else { return Ok(()) };
        let of = self.object.as_ref().map(|object| format!(" of {object}")).unwrap_or_default();
        Err(Untouched::Hidden { document: self.document, line, part: format!("{part}{of}"), how })
    }

    fn word<'n>(&self, node: &'n Node, key: &str) -> Result<Option<&'n str>, Untouched> {
        let Some(value) = node.get(key) else { return Ok(None) };
        self.open(key, value)?;
        Ok(value.text())
    }
}

/// `assumed` is the kind of what does not say its own: an item of a list.
fn collect<'n>(mut way: Way, node: &'n Node, assumed: &str, found: &mut Vec<Found<'n>>) -> Result<(), Untouched> {
    way.open("an object", node)?;
    let kind = way.word(node, "kind")?.unwrap_or(assumed);
    if let Some(list) = node.get("items") {
        // A list to kubectl, whatever its kind is; of a PodList's items each is a Pod.
        way.open("items", list)?;
        let assumed = kind.strip_suffix("List").unwrap_or_default();
        let way = || Way { document: way.document, object: None };
        return list.items().iter().try_for_each(|item| collect(way(), item, assumed, found));
    }
    let path: &[&str] = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "AkkaCluster" => {
            &["spec", "template"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        "Pod" => &[],
        _ => return Ok(()),
    };
    way.object = Some(kind.to_lowercase());
    way.word(node, "apiVersion")?;
    let (name, namespace) = named(&way, node)?;
    let object = format!("{}/{namespace}/{name}", kind.to_lowercase());
    way.object = Some(object.clone());
    let mut template = node;
    for key in path {
        let Some(inner) = template.get(key) else { return Ok(()) };
        way.open(key, inner)?;
        template = inner;
    }
    let (kind, name) = (kind.to_owned(), name.to_owned());
    found.push(Found { kind, name, object, document: way.document, node: template });
    Ok(())
}

fn named<'n>(way: &Way, node: &'n Node) -> Result<(&'n str, &'n str), Untouched> {
    let Some(metadata) = node.get("metadata") else { return Ok(("", "default")) };
    if metadata.get("name").is_none() {
        way.open("metadata", metadata)?;
    }
    let name = match way.word(metadata, "name")? {
        Some(name) => Some(name),
        None => way.word(metadata, "generateName")?,
    };
    let namespace = way.word(metadata, "namespace")?.unwrap_or("default");
    Ok((name.unwrap_or_default().trim_end_matches('-'), namespace))
}

/// What keeps a node from being understood by itself, its keys included: the line, and how.
fn hidden(node: &Node) -> Option<(usize, &'static str)> {
    const ALIAS: &str = "a YAML alias (of an anchor), and what it says stands elsewhere";
    const MERGE: &str = "a YAML merge key (of an anchor), and what it says stands elsewhere";
    const TAG: &str = "a YAML tag that is not JSON's, and parsers do not agree on what it makes of that";
    let alone = |node: &Node| match (&node.kind, node.tag) {
        (Kind::Alias, _) => Some(ALIAS),
        (_, Some(Tag::Other)) => Some(TAG),
        _ => None,
    };
    let keys = match &node.kind {
        Kind::Mapping { entries, .. } => &entries[..],
        _ => &[],
    };
    let key = |key: &Node| alone(key).or_else(|| (key.text() == Some("<<")).then_some(MERGE));
    let found = alone(node).map(|how| (node, how));
    let (node, how) = found.or_else(|| keys.iter().find_map(|(name, _)| Some((name, key(name)?))))?;
    Some((node.start.line + 1, how))
}

/// The same of a node and all that is in it.
fn hidden_within(node: &Node) -> Option<(usize, &'static str)> {
    hidden(node).or_else(|| match &node.kind {
        Kind::Alias | Kind::Scalar { .. } => None,
        Kind::Sequence { items, .. } => items.iter().find_map(hidden_within),
        Kind::Mapping { entries, .. } => entries.iter().find_map(|(_, value)| hidden_within(value)),
    })
}
