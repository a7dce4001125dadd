//! What a scalar means to kubectl and whatever else reads manifests with Kubernetes' own parser: YAML 1.1, as
//! sigs.k8s.io/yaml resolves it, and not the core schema of YAML 1.2.
//!
//! Invariant: what that parser takes for true, or for a number, is never taken for a string here.

use serde_json::Value;

/// How much a tag says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// `!!str`.
    Text,
    /// `!!int`, `!!bool` and the like: read as if it were plain.
    Plain,
    /// `!!map` or `!!seq`.
    Collection,
    /// Any other: `!!binary`, one of somebody's own. Parsers do not agree on it.
    Other,
}

impl Tag {
    /// By its suffix in YAML's own namespace; `None` for a tag outside it.
    pub(super) fn new(core: Option<&str>) -> Self {
        match core {
            Some("str") => Self::Text,
            Some("int" | "bool" | "float" | "null") => Self::Plain,
            Some("map" | "seq") => Self::Collection,
            _ => Self::Other,
        }
    }
}

/// A plain scalar as data.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return false.into(),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return text.into();
    }
    // Behind a point that parser is stricter with them, and the API server refuses what it leaves a string.
    let digits = text.replace('_', "");
    integer(&digits).or_else(|| float(&digits)).unwrap_or_else(|| text.into())
}

/// Decimal, or with the prefix of another base; a zero before other digits is octal's.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', _, ..] => (16, &lower[2..]),
        [b'0', b'o', _, ..] => (8, &lower[2..]),
        [b'0', b'b', _, ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let size = u64::from_str_radix(digits, base).ok()?;
    if negative { 0_i64.checked_sub_unsigned(size).map(Value::from) } else { Some(size.into()) }
}

/// What has no fraction is a whole number: that is how it comes out of kubectl's JSON.
fn float(text: &str) -> Option<Value> {
    /// The first whole number that is none of `i64`'s: 2^63.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if !text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) {
        return None;
    }
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    #[allow(clippy::cast_possible_truncation, reason = "it has no fraction and is within i64's bounds")]
    let whole = (number.fract() == 0.0 && number.abs() < BEYOND).then_some(number as i64);
    Some(whole.map_or_else(|| number.into(), Value::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        for text in ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"] {
            assert_eq!(resolve(text), json!(true), "{text}");
        }
        for text in ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"] {
            assert_eq!(resolve(text), json!(false), "{text}");
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(resolve(text), json!(null), "{text}");
        }
        let ours = ["12552", "+12552", "12_552", "0x3108", "0X3108", "0x31_08", "030410", "0o30410", "0O30410"];
        for text in ours.into_iter().chain([
            "0b11000100001000",
            "12552.0",
            "12552.",
            "1.2552e4",
            "1.2552E+4",
            "125520e-1",
            ".1_2552e5",
        ]) {
            assert_eq!(resolve(text), json!(12552), "{text}");
        }
        assert_eq!(["0", "-0x10", "08", "012552"].map(resolve), [json!(0), json!(-16), json!(8), json!(5482)]);
        assert_eq!(resolve("9223372036854775808"), json!(9_223_372_036_854_775_808_u64));
        assert_eq!([".5", "-1.5e-3"].map(resolve), [json!(0.5), json!(-0.0015)]);
        for text in [
            "yES",
            "oN",
            "tRue",
            "nULL",
            "0x",
            "0xg",
            "1:30",
            "1.2.3",
            "-",
            "--1",
            "+-1",
            "0x-1",
            "1e",
            ".",
            "..",
            "10m",
            "32Mi",
            "2024-01-01",
            "1e999",
            "x1",
            "é",
            "-é",
            "0é",
        ] {
            assert_eq!(resolve(text), json!(text), "{text}");
        }
    }
}
