//! Values to Kubernetes' types: what does not fit is named by its place, and never quoted, since it may be a secret.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Attempts at finding the place of what does not fit.
const MOST_ATTEMPTS: usize = 300;
/// Values and bytes of an object in which the place is looked for; it is copied for each attempt.
const LARGEST: usize = 50_000;

/// The value as a type; else where it does not fit, and how.
pub(super) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    T::deserialize(&value).map_err(|error| {
        let place = place::<T>(&value, &error.to_string());
        let reason = without_values(&error.to_string());
        if place.is_empty() { reason } else { format!("{place}: {reason}") }
    })
}

/// A message of serde's without what it quotes: `invalid type: string "…", expected i32` as `invalid type: string, expected
/// i32`. Fields' names it quotes, too, and these stay.
pub(super) fn without_values(message: &str) -> String {
    if message.starts_with("missing field") || message.starts_with("duplicate field") {
        return message.to_owned();
    }
    let bare = |text: &str| text.split(['`', '"']).next().unwrap_or_default().trim_end().to_owned();
    match message.rsplit_once(", expected ") {
        Some((what, expected)) => format!("{}, expected {}", bare(what), bare(expected)),
        None => bare(message),
    }
}

/// The deepest value without which the first complaint would be another one, as in `spec.ports[1].port`.
fn place<T: DeserializeOwned>(value: &Value, complaint: &str) -> String {
    let (mut path, mut pointer, mut attempts) = (String::new(), String::new(), 0);
    if size(value) > LARGEST {
        return path;
    }
    'deeper: while let Some(node) = value.pointer(&pointer) {
        let children: Vec<(String, String)> = match node {
            Value::Object(map) => {
                // What an object says that it is can be missing nowhere.
                let keys = map.keys().filter(|key| !["apiVersion", "kind"].contains(&key.as_str()));
                keys.map(|key| (key.clone(), key.replace('~', "~0").replace('/', "~1"))).collect()
            }
            Value::Array(list) => (0..list.len()).map(|at| (format!("[{at}]"), at.to_string())).collect(),
            _ => break,
        };
        for (name, key) in children {
            attempts += 1;
            if attempts > MOST_ATTEMPTS {
                break 'deeper;
            }
            let mut without = value.clone();
            match without.pointer_mut(&pointer) {
                Some(Value::Object(map)) => drop(map.shift_remove(&name)),
                Some(Value::Array(list)) => drop(list.remove(key.parse().unwrap_or_default())),
                _ => break 'deeper,
            }
            if T::deserialize(&without).err().is_none_or(|other| other.to_string() != complaint) {
                let dot = if path.is_empty() || name.starts_with('[') { "" } else { "." };
                path += &format!("{dot}{name}");
                pointer += &format!("/{key}");
                continue 'deeper;
            }
        }
        break;
    }
    path
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::String(text) => text.len(),
        _ => 0,
    }
}
