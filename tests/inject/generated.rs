//! Manifests that nobody wrote: JSON and YAML in several hands, with empty collections wherever something may be added.

use bypassctl::core::inject::{apply, inject, plan, uninject};
use bypassctl::core::route::TrafficPath;
use serde_json::{Map, Value, json};

use crate::{Dice, SidecarKind, options};

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hand {
    /// JSON without a blank.
    Compact,
    /// JSON, a member a line.
    Pretty,
    /// JSON with blanks in odd places.
    Loose,
    /// YAML in blocks; what is empty in brackets.
    Block,
    /// YAML in blocks, some of them in braces.
    Mixed,
}

const HANDS: [Hand; 5] = [Hand::Compact, Hand::Pretty, Hand::Loose, Hand::Block, Hand::Mixed];

fn one_of<'a, T>(dice: &mut Dice, of: &'a [T]) -> &'a T {
    &of[dice.throw(of.len())]
}

/// A mapping of some of these members, in any order.
fn some(dice: &mut Dice, sure: Vec<(&str, Value)>, perhaps: Vec<(&str, Value)>) -> Value {
    let mut members = sure;
    members.extend(perhaps.into_iter().filter(|_| dice.throw(2) == 0));
    let mut map = Map::new();
    while !members.is_empty() {
        let (key, value) = members.remove(dice.throw(members.len()));
        map.insert(key.to_owned(), value);
    }
    map.into()
}

fn metadata(dice: &mut Dice, name: Option<&str>) -> Value {
    let annotations = one_of(dice, &[json!({}), json!({"a": "b"}), json!({"a": "{[,", "b": "#"})]).clone();
    let labels = one_of(dice, &[json!({}), json!({"app": "é"})]).clone();
    some(
        dice,
        name.map(|name| ("name", name.into())).into_iter().collect(),
        vec![("annotations", annotations), ("labels", labels)],
    )
}

fn container(dice: &mut Dice) -> Value {
    let env = one_of(
        dice,
        &[
            json!([]),
            json!([{"name": "A", "value": "b, }]"}]),
            json!([{"name": "LD_PRELOAD", "value": "/opt/a.so"}, {"name": "Z", "value": ""}]),
            json!([{"value": "-Xmx1g", "name": "JAVA_TOOL_OPTIONS"}]),
        ],
    )
    .clone();
    let mounts = one_of(dice, &[json!([]), json!([{"name": "v", "mountPath": "/v"}])]).clone();
    let ports = one_of(dice, &[json!([]), json!([{"containerPort": 2552}])]).clone();
    some(
        dice,
        vec![("name", "app".into()), ("image", "app:1".into())],
        vec![("env", env), ("volumeMounts", mounts), ("ports", ports), ("resources", json!({}))],
    )
}

fn template(dice: &mut Dice, name: Option<&str>) -> Value {
    let container = container(dice);
    let mut initial = || one_of(dice, &[json!([]), json!([{"name": "first", "image": "f:1"}])]).clone();
    let (initial, volumes) = (initial(), initial());
    let volumes = if volumes == json!([]) { volumes } else { json!([{"emptyDir": {}, "name": "v"}]) };
    let gates = one_of(dice, &[json!([]), json!([{"conditionType": "a.b/c"}])]).clone();
    let spec = some(
        dice,
        vec![("containers", json!([container]))],
        vec![
            ("initContainers", initial),
            ("volumes", volumes),
            ("readinessGates", gates),
            ("securityContext", json!({})),
        ],
    );
    let metadata = metadata(dice, name);
    let (sure, perhaps) = if name.is_some() {
        (vec![("spec", spec), ("metadata", metadata), ("kind", "Pod".into()), ("apiVersion", "v1".into())], vec![])
    } else {
        (vec![("spec", spec)], vec![("metadata", metadata)])
    };
    some(dice, sure, perhaps)
}

fn object(dice: &mut Dice) -> Value {
    if dice.throw(3) == 0 {
        return template(dice, Some("p"));
    }
    let template = template(dice, None);
    let spec = some(dice, vec![("template", template)], vec![("replicas", 3.into()), ("strategy", json!({}))]);
    let metadata = metadata(dice, Some("d"));
    some(
        dice,
        vec![("kind", "Deployment".into()), ("metadata", metadata), ("spec", spec)],
        vec![("apiVersion", "apps/v1".into()), ("status", json!({}))],
    )
}

/// What is written, in this hand.
fn written(value: &Value, hand: Hand, dice: &mut Dice) -> String {
    match hand {
        Hand::Compact => value.to_string(),
        Hand::Pretty => serde_json::to_string_pretty(value).unwrap() + "\n",
        Hand::Loose => flow(value, dice),
        Hand::Block | Hand::Mixed => block(value, hand, 0, dice) + "\n",
    }
}

fn flow(value: &Value, dice: &mut Dice) -> String {
    let blank = |dice: &mut Dice| ["", "", " ", "  ", "\n  ", "\n"][dice.throw(6)];
    let members: Vec<String> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{}{}: {}", Value::from(&key[..]), ["", " "][dice.throw(2)], flow(value, dice)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| flow(item, dice)).collect(),
        scalar => return scalar.to_string(),
    };
    let (open, close) = if value.is_object() { ('{', '}') } else { ('[', ']') };
    let mut text = String::from(open);
    for (i, member) in members.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        text += &format!("{comma}{}{member}{}", blank(dice), blank(dice));
    }
    if members.is_empty() {
        text += blank(dice);
    }
    text.push(close);
    text
}

fn block(value: &Value, hand: Hand, indent: usize, dice: &mut Dice) -> String {
    let is_empty = matches!(value, Value::Object(map) if map.is_empty()) || value.as_array().is_some_and(Vec::is_empty);
    if is_empty || !(value.is_object() || value.is_array()) || (hand == Hand::Mixed && dice.throw(6) == 0) {
        return format!(" {}", if is_empty { flow(value, dice).replace('\n', "") } else { value.to_string() });
    }
    let mut text = String::new();
    if let Value::Object(map) = value {
        for (key, value) in map {
            if dice.throw(8) == 0 {
                text += &format!("\n{:indent$}# of {key}", "");
            }
            text += &format!("\n{:indent$}{key}:{}", "", block(value, hand, indent + 2, dice));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        let inner = block(item, hand, indent + 2, dice);
        text += &format!(
            "\n{:indent$}-{}",
            "",
            inner.strip_prefix('\n').map_or(inner.clone(), |inner| {
                if inner.trim_start().starts_with('#') {
                    format!("\n{inner}")
                } else {
                    format!(" {}", inner.trim_start())
                }
            })
        );
    }
    text
}

fn read(text: &str, hand: Hand) -> Value {
    match hand {
        Hand::Compact | Hand::Pretty | Hand::Loose => {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
        }
        Hand::Block | Hand::Mixed => serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
    }
}

fn pod(object: &mut Value) -> &mut Value {
    if object["kind"] == "Pod" { object } else { &mut object["spec"]["template"] }
}

/// Where the order does not matter, and text and data have different ones.
fn in_order(mut object: Value) -> Value {
    for list in ["volumes", "readinessGates"] {
        if let Some(Value::Array(items)) = pod(&mut object)["spec"].get_mut(list) {
            items.sort_by_key(Value::to_string);
        }
    }
    object
}

/// Without collections that say nothing.
fn pruned(value: &Value) -> Value {
    let says = |value: &Value| !matches!(value, Value::Object(map) if map.is_empty()) && *value != json!([]);
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| (key.clone(), pruned(value)));
            Value::Object(members.filter(|(_, value)| says(value)).collect())
        }
        Value::Array(items) => items.iter().map(pruned).collect(),
        scalar => scalar.clone(),
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        scalar => scalar.clone(),
    }
}

#[test]
fn what_is_injected_is_what_was_planned_and_goes_without_a_trace() {
    let mut dice = Dice(11);
    for round in 0..400 {
        let object = object(&mut dice);
        let hand = HANDS[round % HANDS.len()];
        let text = written(&object, hand, &mut dice).trim_start().to_owned();
        assert_eq!(read(&text, hand), object, "the generator's own\n{text}");
        for (sidecar, path) in [(SidecarKind::Native, TrafficPath::Rules), (SidecarKind::Classic, TrafficPath::Ports)] {
            let options = options(sidecar, path);
            let once = inject(&text, &options).unwrap_or_else(|error| panic!("{error}: {text}")).text;
            let mut planned = object.clone();
            let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
            let injection = plan(kind, name, pod(&mut planned), &options).unwrap().unwrap();
            apply(pod(&mut planned), &injection);
            assert_eq!(in_order(read(&once, hand)), in_order(planned), "{hand:?}: {once}\nit was\n{text}");
            assert_eq!(inject(&once, &options).unwrap().text, once, "{hand:?}: twice; it was\n{text}");
            let back = uninject(&once).unwrap_or_else(|error| panic!("{error}: {once}")).text;
            assert_eq!(back, text, "{hand:?}: back from\n{once}");
        }
    }
}

/// `kubectl get -o json`, jq and the like write with keys in other places, and blanks in others.
#[test]
fn what_others_wrote_anew_in_between_can_be_taken_away_too() {
    let mut dice = Dice(12);
    for round in 0..200 {
        let object = object(&mut dice);
        let options = options(SidecarKind::Native, [TrafficPath::Rules, TrafficPath::Ports][round % 2]);
        let injected = read(&inject(&object.to_string(), &options).unwrap().text, Hand::Compact);
        for (hand, anew) in HANDS.into_iter().flat_map(|hand| [(hand, injected.clone()), (hand, sorted(&injected))]) {
            let text = written(&anew, hand, &mut dice).trim_start().to_owned();
            let back = uninject(&text).unwrap_or_else(|error| panic!("{error}: {hand:?} {text}")).text;
            assert_eq!(pruned(&read(&back, hand)), pruned(&object), "{hand:?}: {back}\nfrom\n{text}");
        }
    }
}
