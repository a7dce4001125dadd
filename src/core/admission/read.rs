//! A review's JSON as far as it is judged.
//!
//! Invariant: what is kept of a body is bounded, whatever is in it: `[0,0,…` has a value for every other byte, and each of
//! them takes some eighty.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::core::admission::NoReview;

/// A pod of a hundred containers with a hundred variables each has some thirty thousand.
const MOST_VALUES: u32 = 32 * 1024;

/// Where nothing is that the plan reads, by the depth of the object that it is in.
const PASSED_OVER: [(u8, &str); 5] =
    [(1, "oldObject"), (1, "options"), (1, "userInfo"), (2, "status"), (3, "managedFields")];

/// Reads a review.
///
/// # Errors
/// If it is no JSON, or of more values than any pod has.
pub fn read(body: &[u8]) -> Result<Value, NoReview> {
    let left = Cell::new(MOST_VALUES);
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = Reader { depth: 0, left: &left }.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    read.map_err(
        |error| if left.get() == 0 { NoReview::TooMany(MOST_VALUES) } else { NoReview::NoJson(error.to_string()) },
    )
}

/// Reads one value; all of a body share what is left.
#[derive(Clone, Copy)]
struct Reader<'a> {
    depth: u8,
    left: &'a Cell<u32>,
}

impl<'a> Reader<'a> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.left.set(left);
        Ok(Reader { depth: self.depth.saturating_add(1), left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if PASSED_OVER.contains(&(self.depth, key.as_str())) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            object.insert(key, members.next_value_seed(self.inner()?)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_is_there() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 1.5, "\u0041\n", {"b": []}], "a b": {}}"#;
        assert_eq!(read(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn what_nobody_judges_is_not_kept() {
        let metadata = json!({"name": "n", "managedFields": [{"f:spec": {}}]});
        let request = json!({"uid": "u", "userInfo": {"groups": ["g"]}, "oldObject": {"a": 1}, "options": {"b": 2},
            "object": {"metadata": metadata, "spec": {"status": {}, "options": 1}, "status": {"phase": "x"}}});
        let kept = read(json!({"kind": "AdmissionReview", "request": request}).to_string().as_bytes()).unwrap();
        let object = json!({"metadata": {"name": "n"}, "spec": {"status": {}, "options": 1}});
        assert_eq!(kept, json!({"kind": "AdmissionReview", "request": {"uid": "u", "object": object}}));
    }

    #[test]
    fn a_body_of_too_many_values_is_refused() {
        let most = MOST_VALUES as usize;
        let list = |values: usize| format!("[{}0]", "0,".repeat(values - 1));
        assert_eq!(read(list(most - 1).as_bytes()).unwrap().as_array().unwrap().len(), most - 1);
        assert_eq!(read(list(most).as_bytes()), Err(NoReview::TooMany(MOST_VALUES)));
        // Nobody looks at what is passed over, however much it is.
        assert!(read(format!(r#"{{"request": {{"oldObject": {}}}}}"#, list(most)).as_bytes()).is_ok());
        let objects = format!("[{}0]", r#"{"":0},"#.repeat(most / 2));
        assert_eq!(read(objects.as_bytes()), Err(NoReview::TooMany(MOST_VALUES)));
    }

    #[test]
    fn what_is_no_json_is_said_where() {
        for text in ["", "{", "{}x", "{\"a\": 01}", &"[".repeat(100_000)] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("no JSON") && error.contains("line 1"), "{error}");
        }
    }
}
