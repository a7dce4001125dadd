//! Which workloads and pods are meant: all of a namespace, those with labels, or those of one workload.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};

use crate::core::facts::Workload;

/// Which workloads and pods are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those with these labels.
    Labels(Labels),
    /// One workload and its pods.
    Workload {
        /// As in `Deployment`.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// A label selector as kubectl's `-l` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// `None` for the mere key.
    values: Option<Vec<String>>,
    wanted: bool,
}

const KINDS: [(&str, &[&str]); 6] = [
    ("Deployment", &["deployment", "deployments", "deploy"]),
    ("StatefulSet", &["statefulset", "statefulsets", "sts"]),
    ("DaemonSet", &["daemonset", "daemonsets", "ds"]),
    ("Job", &["job", "jobs"]),
    ("CronJob", &["cronjob", "cronjobs", "cj"]),
    ("Pod", &["pod", "pods", "po"]),
];

impl Selection {
    /// Reads what the command line says: a workload `KIND/NAME`, or a label selector, or neither.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(workload: Option<&str>, labels: Option<&str>) -> Result<Self, String> {
        match (workload, labels) {
            (None, None) => Ok(Self::All),
            (None, Some(labels)) => Labels::parse(labels).map(Self::Labels),
            (Some(_), Some(_)) => Err("a workload or a label selector may be given, not both".to_owned()),
            (Some(workload), None) => {
                let wrong = || {
                    let kinds = KINDS.map(|(_, names)| names[0]).join(", ");
                    format!("{workload:?} names no workload: write KIND/NAME, as in deployment/shop; kinds are {kinds}")
                };
                let (kind, name) = workload.split_once('/').ok_or_else(wrong)?;
                let kind = kind.to_ascii_lowercase();
                let (kind, _) = KINDS.iter().find(|(_, names)| names.contains(&kind.as_str())).ok_or_else(wrong)?;
                if name.is_empty() || name.contains('/') {
                    return Err(wrong());
                }
                Ok(Self::Workload { kind: (*kind).to_owned(), name: name.to_owned() })
            }
        }
    }

    /// Whether this workload is meant.
    #[must_use]
    pub fn takes_workload(&self, workload: &Workload) -> bool {
        match self {
            Self::All => true,
            Self::Labels(labels) => {
                let of = |labels: &Option<BTreeMap<String, String>>| labels.clone().unwrap_or_default();
                let template =
                    workload.template.metadata.as_ref().is_some_and(|meta| labels.hold_for(&of(&meta.labels)));
                template || labels.hold_for(&of(&workload.metadata.labels))
            }
            Self::Workload { kind, name } => workload.kind == *kind && workload.metadata.name.as_deref() == Some(name),
        }
    }

    /// Whether this pod is meant, where `workloads` are those that are.
    #[must_use]
    pub fn takes_pod(&self, pod: &Pod, workloads: &[Workload]) -> bool {
        let empty = BTreeMap::new();
        let own = pod.metadata.labels.as_ref().unwrap_or(&empty);
        match self {
            Self::All => true,
            Self::Labels(labels) => labels.hold_for(own),
            Self::Workload { kind, name } if kind == "Pod" => pod.metadata.name.as_deref() == Some(name),
            Self::Workload { kind, name } => {
                let owned = pod.metadata.owner_references.iter().flatten();
                let mut owned = owned.filter(|owner| owner.kind == *kind && owner.name == *name);
                owned.next().is_some()
                    || workloads.iter().filter_map(|one| one.selector.as_ref()).any(|selector| selects(selector, own))
            }
        }
    }
}

/// Whether a workload's selector selects these labels; an empty one selects nothing here.
pub(super) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| !selector.selects_all() && selector.matches(labels))
}

impl Labels {
    fn parse(text: &str) -> Result<Self, String> {
        let requirements: Vec<Requirement> =
            split(text).into_iter().map(|one| requirement(one.trim())).collect::<Result<_, _>>()?;
        if requirements.is_empty() { Err(wrong(text)) } else { Ok(Self(requirements)) }
    }

    fn hold_for(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|one| {
            let holds = match (&one.values, labels.get(&one.key)) {
                (None, value) => value.is_some(),
                (Some(values), Some(value)) => values.contains(value),
                (Some(_), None) => false,
            };
            holds == one.wanted
        })
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is no label selector, such as app=shop, app!=shop, 'app in (shop,cart)', app, or '!app'")
}

/// At commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
    };
    let made = |key: &str, values: Option<Vec<&str>>, wanted| {
        let key = key.trim();
        let fine = is_name(key) && values.iter().flatten().all(|value| value.is_empty() || is_name(value));
        let values = values.map(|values| values.into_iter().map(str::to_owned).collect());
        if fine { Ok(Requirement { key: key.to_owned(), values, wanted }) } else { Err(wrong(text)) }
    };
    if let Some((key, value)) = text.split_once("!=") {
        return made(key, Some(vec![value.trim()]), false);
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return made(key, Some(vec![value.trim()]), true);
    }
    if let Some((left, right)) = text.split_once('(') {
        let values: Vec<&str> = right.strip_suffix(')').ok_or_else(|| wrong(text))?.split(',').map(str::trim).collect();
        return match left.split_whitespace().collect::<Vec<_>>().as_slice() {
            [key, "in"] => made(key, Some(values), true),
            [key, "notin"] => made(key, Some(values), false),
            _ => Err(wrong(text)),
        };
    }
    match text.strip_prefix('!') {
        Some(key) => made(key, None, false),
        None => made(text, None, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_mean_what_kubectl_s_mean() {
        let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned()), ("tier".to_owned(), "web".to_owned())]);
        for (text, expected) in [
            ("app=shop", true),
            ("app==shop,tier=web", true),
            ("app=cart", false),
            ("app!=cart", true),
            ("other!=cart", true),
            ("app in (shop, cart),tier", true),
            ("app notin (shop)", false),
            ("!app", false),
            ("!other", true),
        ] {
            assert_eq!(Labels::parse(text).unwrap().hold_for(&labels), expected, "{text}");
        }
        for text in ["", "=shop", "a b", "app in shop", "app in (shop", "app=sh op", ","] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_workload_is_named_by_kind_and_name() {
        let named = |text| Selection::parse(Some(text), None);
        let shop = Selection::Workload { kind: "Deployment".to_owned(), name: "shop".to_owned() };
        assert_eq!(named("deploy/shop"), Ok(shop.clone()));
        assert_eq!(named("Deployment/shop"), Ok(shop));
        for text in ["shop", "service/shop", "deployment/", "deployment/a/b"] {
            assert!(named(text).unwrap_err().contains("write KIND/NAME"), "{text}");
        }
    }
}
