//! Data as YAML in block style.

use serde_json::Value;

/// A value as lines of YAML in block style.
pub(in crate::core) fn yaml(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::Object(inner) if !inner.is_empty() => under(&scalar(key), value, "  "),
                Value::Array(inner) if inner.iter().any(Value::is_object) => under(&scalar(key), value, ""),
                _ => vec![format!("{}: {}", scalar(key), inline(value))],
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .flat_map(|item| {
                let lines = yaml(item);
                lines.into_iter().enumerate().map(|(i, line)| format!("{}{line}", if i == 0 { "- " } else { "  " }))
            })
            .collect(),
        other => vec![inline(other)],
    }
}

fn under(key: &str, value: &Value, indent: &str) -> Vec<String> {
    let mut lines = vec![format!("{key}:")];
    lines.extend(yaml(value).into_iter().map(|line| format!("{indent}{line}")));
    lines
}

/// A scalar, or a list of scalars, on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// A string as YAML, in quotes where it could be taken for something else.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '-' || c == '/')
        && !text.starts_with("- ")
        && text != "-"
        && !text.starts_with("---")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:@".contains(c))
        && !text.ends_with(':')
        && !matches!(
            &text.to_ascii_lowercase()[..],
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        );
    // `-5` is a number.
    let number = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if plain && !number { text.to_owned() } else { Value::from(text).to_string() }
}
