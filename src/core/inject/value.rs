//! A pod template as data: for JSON, for flow style, and for the webhook.

use serde_json::{Map, Value, json};

use crate::core::inject::apps::{Ours, ours};
use crate::core::inject::{INJECTED, Injection, LISTS, SHIM_VOLUME, is_ours};

/// Whether `inject` has been here.
#[must_use]
pub fn is_injected(template: &Value) -> bool {
    template["metadata"]["annotations"][INJECTED].is_string()
}

/// Adds to a pod template.
pub fn apply(template: &mut Value, injection: &Injection) {
    add(template, injection, |first| first);
}

/// The same with everything before what is there, as in a text.
pub(super) fn add_first(template: &mut Value, injection: &Injection) {
    add(template, injection, |_| true);
}

fn add(template: &mut Value, injection: &Injection, goes_first: impl Fn(bool) -> bool) {
    let annotations = object(
        object(object(template).entry("metadata").or_insert_with(|| json!({})))
            .entry("annotations")
            .or_insert_with(|| json!({})),
    );
    for (name, value) in &injection.annotations {
        annotations.insert(name.clone(), value.as_str().into());
    }
    let spec = object(object(template).entry("spec").or_insert_with(|| json!({})));
    for change in &injection.apps {
        let Some(container) = spec.get_mut("containers").and_then(|list| list.get_mut(change.container)) else {
            continue;
        };
        for (variable, own) in &change.joined {
            if let Some(Value::String(value)) =
                container["env"].get_mut(*variable).and_then(|item| item.get_mut("value"))
            {
                value.push_str(own);
            }
        }
        for (list, items) in [("env", &change.env), ("volumeMounts", &change.mounts)] {
            let list = object(container).entry(list).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.splice(0..0, items.iter().cloned());
            }
        }
    }
    for (list, items, first) in injection.additions() {
        if items.is_empty() {
            continue;
        }
        let list = spec.entry(list).or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        if let Value::Array(list) = list {
            let at = if goes_first(first) { 0 } else { list.len() };
            list.splice(at..at, items.iter().cloned());
        }
    }
}

/// Takes away what [`apply`] added.
pub fn remove(template: &mut Value) {
    if let Some(Value::Object(metadata)) = template.get_mut("metadata")
        && let Some(Value::Object(annotations)) = metadata.get_mut("annotations")
    {
        annotations.shift_remove(INJECTED);
        if annotations.is_empty() {
            metadata.shift_remove("annotations");
        }
    }
    let Some(Value::Object(spec)) = template.get_mut("spec") else { return };
    if let Some(Value::Array(containers)) = spec.get_mut("containers") {
        containers.iter_mut().for_each(remove_from_app);
    }
    for list in LISTS {
        let Some(Value::Array(items)) = spec.get_mut(list) else { continue };
        items.retain(|item| !is_ours(item["name"].as_str(), item["conditionType"].as_str()));
        if items.is_empty() {
            spec.shift_remove(list);
        }
    }
}

/// A pod template without what says nothing: collections that are empty where something may be added.
pub(super) fn without_empty(mut template: Value) -> Value {
    let prune = |value: Option<&mut Value>, keys: &[&str]| {
        let Some(Value::Object(map)) = value else { return };
        for key in keys {
            let is_empty = |value: &Value| match value {
                Value::Object(map) => map.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            if map.get(*key).is_some_and(is_empty) {
                map.shift_remove(*key);
            }
        }
    };
    prune(template.get_mut("metadata"), &["annotations"]);
    prune(Some(&mut template), &["metadata"]);
    if let Some(spec) = template.get_mut("spec") {
        if let Some(Value::Array(containers)) = spec.get_mut("containers") {
            containers.iter_mut().for_each(|container| prune(Some(container), &["env", "volumeMounts"]));
        }
        prune(Some(spec), &LISTS);
    }
    template
}

fn remove_from_app(container: &mut Value) {
    let Value::Object(container) = container else { return };
    if let Some(Value::Array(env)) = container.get_mut("env") {
        env.retain_mut(|item| match ours(item["name"].as_str(), item["value"].as_str()) {
            None => true,
            Some(Ours::Whole) => false,
            Some(Ours::Behind(own)) => {
                if let Some(Value::String(value)) = item.get_mut("value") {
                    value.truncate(value.len() - own.len());
                }
                true
            }
        });
    }
    if let Some(Value::Array(mounts)) = container.get_mut("volumeMounts") {
        mounts.retain(|mount| mount["name"] != SHIM_VOLUME);
    }
    for list in ["env", "volumeMounts"] {
        if container.get(list).is_some_and(|list| list.as_array().is_some_and(Vec::is_empty)) {
            container.shift_remove(list);
        }
    }
}

/// The object that this is, or is made.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made one"),
    }
}
