//! The plugin's place in a network configuration list.
//!
//! Invariant: whatever else stands in the list stays as it is, in its order.

use serde_json::{Value, json};

use crate::core::cni::{SPOKEN, Settings, TYPE};

/// The list with the plugin in it, once, as it is to be told; `None` if it is so already.
///
/// # Errors
/// Why no plugin can be put into it.
pub fn with_plugin(text: &str, settings: &Settings) -> Result<Option<String>, String> {
    let mut list = parse(text)?;
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !SPOKEN.contains(&version) {
        return Err(format!("its cniVersion {version:?} is none of {}", SPOKEN.join(", ")));
    }
    let plugin = json!({"type": TYPE, "bypassctl": settings});
    let plugins = plugins(&mut list)?;
    if plugins.iter().all(is_ours) {
        return Err("it has no plugin that makes a network".to_owned());
    }
    let ours: Vec<usize> = (0..plugins.len()).filter(|at| is_ours(&plugins[*at])).collect();
    let place = match ours.as_slice() {
        [] => plugins.len(),
        // Before the network is made there is nothing to make rules in, and no result to hand on.
        [0, ..] => 1,
        [at] if plugins[*at] == plugin => return Ok(None),
        // Where it stands, somebody may have put it.
        [first, ..] => *first,
    };
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.insert(place, plugin);
    Ok(Some(written(&list)))
}

/// The list without the plugin; `None` if it is not in it.
///
/// # Errors
/// Why it is no list.
pub fn without_plugin(text: &str) -> Result<Option<String>, String> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() < before).then(|| written(&list)))
}

/// Why the plugin does not work in this list; `None` if it does.
#[must_use]
pub fn lacks(text: &str) -> Option<String> {
    let mut list = match parse(text) {
        Ok(list) => list,
        Err(reason) => return Some(reason),
    };
    let plugins = match plugins(&mut list) {
        Ok(plugins) => plugins,
        Err(reason) => return Some(reason),
    };
    match plugins.iter().position(is_ours) {
        None => Some(format!("it does not name the plugin {TYPE}")),
        Some(0) => {
            Some(format!("the plugin {TYPE} stands first in it, where there is no network yet: no pod can start"))
        }
        Some(_) => None,
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(TYPE)
}

fn parse(text: &str) -> Result<Value, String> {
    let list: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    if list.get("plugins").is_none() && list.get("type").is_some() {
        return Err(
            "it is a single plugin, behind which none can stand; it has to be made a list (.conflist)".to_owned()
        );
    }
    Ok(list)
}

fn plugins(list: &mut Value) -> Result<&mut Vec<Value>, String> {
    list.get_mut("plugins").and_then(Value::as_array_mut).ok_or_else(|| "it has no list of plugins".to_owned())
}

fn written(list: &Value) -> String {
    format!("{list:#}\n")
}

/// Which of these names of files a runtime reads: the first by its name.
#[must_use]
pub fn first_read(mut names: Vec<String>) -> Option<String> {
    names.retain(|name| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)));
    names.sort();
    names.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        r#"{"cniVersion": "0.3.1", "name": "pods", "x": 1, "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap();
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn it_goes_in_once_and_comes_out_without_a_trace() {
        let settings = Settings::default();
        let with = with_plugin(LIST, &settings).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", "portmap", TYPE]);
        assert_eq!(with_plugin(&with, &settings), Ok(None));
        let without = without_plugin(&with).unwrap().unwrap();
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(same(&without), same(LIST));
        assert_eq!(without_plugin(&without), Ok(None));
    }

    #[test]
    fn two_of_ours_become_one_where_the_first_stood_and_settings_are_brought_up_to_date() {
        let twice = LIST.replace(
            r#"{"type": "portmap"}"#,
            r#"{"type": "bypassctl-cni"}, {"type": "portmap"}, {"type": "bypassctl-cni"}"#,
        );
        let settings = Settings { preset: Some("pekko".to_owned()), ..Settings::default() };
        let with = with_plugin(&twice, &settings).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", TYPE, "portmap"]);
        assert!(with.contains("pekko"));
        assert_eq!(types(&without_plugin(&twice).unwrap().unwrap()), ["bridge", "portmap"]);
    }

    /// There it fails for every pod.
    #[test]
    fn it_does_not_stay_before_whoever_makes_the_network() {
        let settings = Settings::default();
        let ours = json!({"type": TYPE, "bypassctl": settings}).to_string();
        let first = LIST.replace(r#"{"type": "bridge"}"#, &format!(r#"{ours}, {{"type": "bridge"}}"#));
        assert!(lacks(&first).unwrap().contains("stands first"));
        let with = with_plugin(&first, &settings).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", TYPE, "portmap"]);
        assert_eq!((with_plugin(&with, &settings), lacks(&with)), (Ok(None), None));
        assert!(lacks(LIST).unwrap().contains("does not name"));
    }

    #[test]
    fn what_is_no_list_is_said() {
        let refused = |text: &str| with_plugin(text, &Settings::default()).unwrap_err();
        assert!(refused("{").contains("no JSON"));
        assert!(refused(r#"{"cniVersion": "1.0.0", "type": "bridge"}"#).contains("single plugin"));
        assert!(refused(r#"{"cniVersion": "1.0.0"}"#).contains("no list of plugins"));
        assert!(refused(r#"{"cniVersion": "1.0.0", "plugins": []}"#).contains("no plugin that makes"));
        assert!(refused(&LIST.replace("0.3.1", "2.0.0")).contains("2.0.0"));
    }

    #[test]
    fn the_first_by_its_name_is_read() {
        let names = ["20-b.conflist", "10-a.kubeconfig", "15-c.conf", ".x.tmp"].map(str::to_owned).to_vec();
        assert_eq!(first_read(names).as_deref(), Some("15-c.conf"));
    }
}
