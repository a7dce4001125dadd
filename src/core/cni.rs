//! The Container Network Interface as a chained plugin speaks it, versions 0.3.0 to 1.1.0: environment and configuration
//! in, a result or an error out. What the plugin decides of a pod is in [`choice`], its place in a chain in [`chain`].
//!
//! Invariant: the result of whoever came before in the chain is handed on as it came.

pub mod chain;
pub mod choice;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The versions whose results are of one form, which is all that is handed on.
pub const SPOKEN: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// `type` in a configuration, and the name of the executable.
pub const TYPE: &str = "bypassctl-cni";
/// Bytes of a configuration; the results of many plugins are in it.
pub const MOST_BYTES: usize = 1 << 20;
/// Namespaces whose pods are left alone unless others are named: what a node needs to get on its feet.
const EXCLUDED: [&str; 1] = ["kube-system"];

/// What is asked of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The container joins the network.
    Add,
    /// Whether all is as ADD has left it.
    Check,
    /// The container leaves.
    Del,
    /// Which versions are spoken.
    Version,
    /// Whether ADD could succeed.
    Status,
    /// Containers that are not named any more are gone.
    Gc,
}

/// What is wrong, as the protocol numbers it (section 5, "Error"); from 100 on the numbers are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A version that is not spoken.
    IncompatibleVersion = 1,
    /// Environment variables that are missing or make no sense.
    Environment = 4,
    /// Files, sockets, namespaces.
    Io = 5,
    /// A configuration that is no JSON.
    Undecodable = 6,
    /// A configuration that does not make sense.
    InvalidConfiguration = 7,
    /// It may work a moment later: the API server is away.
    TryLater = 11,
    /// STATUS: no ADD can succeed.
    Unavailable = 50,
    /// Rules that something beats; they were taken back.
    NotProven = 100,
    /// No rules can be made here.
    NoBackend = 101,
    /// CHECK: rules are missing, or are others.
    RulesLost = 102,
}

/// An error as the protocol has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number.
    pub code: Code,
    /// In a sentence.
    pub message: String,
    /// What to do; may be empty.
    pub details: String,
}

impl Fault {
    /// Of this kind, with what to do.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// As the runtime reads it.
    #[must_use]
    pub fn json(&self, version: &str) -> Value {
        let Self { code, message, details } = self;
        json!({"cniVersion": version, "code": *code as u32, "msg": message, "details": details})
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, details, .. } = self;
        f.write_str(message)?;
        if details.is_empty() { Ok(()) } else { write!(f, "; {details}") }
    }
}

impl std::error::Error for Fault {}

/// `CNI_COMMAND`.
///
/// # Errors
/// If it is none.
pub fn verb(text: &str) -> Result<Verb, Fault> {
    Ok(match text {
        "ADD" => Verb::Add,
        "CHECK" => Verb::Check,
        "DEL" => Verb::Del,
        "VERSION" => Verb::Version,
        "STATUS" => Verb::Status,
        "GC" => Verb::Gc,
        other => {
            let message = format!("CNI_COMMAND {other:?} is none of ADD, CHECK, DEL, VERSION, STATUS, GC");
            return Err(Fault::new(Code::Environment, message, "see the container runtime"));
        }
    })
}

/// What the node's administrator says, under the key `bypassctl` of the plugin's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Of whoever may get pods.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces whose pods are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_namespaces: Option<Vec<String>>,
    /// Ports of pods that do not say theirs: akka, akka-artery or pekko.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The same, as a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remoting_port: Option<String>,
    /// The same, as a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management_port: Option<String>,
    /// auto, nft, iptables-nft or iptables-legacy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

impl Settings {
    /// Whether pods of this namespace are left alone.
    #[must_use]
    pub fn excludes(&self, namespace: &str) -> bool {
        match &self.exclude_namespaces {
            Some(names) => names.iter().any(|name| name == namespace),
            None => EXCLUDED.contains(&namespace),
        }
    }
}

/// The plugin's configuration, as the runtime hands it over.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The version that the runtime speaks.
    pub version: String,
    /// What the plugin is told.
    pub settings: Settings,
    /// The result of whoever came before.
    pub previous: Option<Value>,
}

impl Configuration {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default, rename = "cniVersion")]
            version: String,
            #[serde(default)]
            bypassctl: Settings,
            #[serde(default, rename = "prevResult")]
            previous: Option<Value>,
        }
        let advice =
            "the configuration list of this node has to be mended: bypassctl cni install writes its part of it";
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            Fault::new(Code::Undecodable, format!("the configuration on standard input is no JSON: {error}"), advice)
        })?;
        let wrong = |what: String| {
            Fault::new(Code::InvalidConfiguration, format!("the plugin's configuration: {what}"), advice)
        };
        if !value.is_object() {
            return Err(wrong("it is no object".to_owned()));
        }
        let raw: Raw = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        if !SPOKEN.contains(&raw.version.as_str()) {
            let message = format!("cniVersion {:?} is not spoken", raw.version);
            let details = format!("the configuration list has to name one of {}", SPOKEN.join(", "));
            return Err(Fault::new(Code::IncompatibleVersion, message, details));
        }
        Ok(Self { version: raw.version, settings: raw.bypassctl, previous: raw.previous })
    }

    /// What the plugin answers to ADD.
    ///
    /// # Errors
    /// If nobody came before it.
    pub fn result(&self) -> Result<Value, Fault> {
        let Some(Value::Object(previous)) = &self.previous else {
            let message = "there is no prevResult: the plugin stands first in its chain, or alone";
            let details = format!("{TYPE} makes no network; it stands behind the plugin that makes the pod's");
            return Err(Fault::new(Code::InvalidConfiguration, message, details));
        };
        let mut result = previous.clone();
        result.insert("cniVersion".to_owned(), self.version.as_str().into());
        Ok(Value::Object(result))
    }
}

/// The answer to VERSION.
#[must_use]
pub fn versions(asked: &str) -> Value {
    let version = if asked.is_empty() { SPOKEN[SPOKEN.len() - 1] } else { asked };
    json!({"cniVersion": version, "supportedVersions": SPOKEN})
}

/// A pod as `CNI_ARGS` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; not every runtime tells it.
    pub uid: Option<String>,
}

impl PodName {
    /// Reads `CNI_ARGS`; `None` if it names no pod: whoever calls is no kubelet.
    ///
    /// # Errors
    /// If it is no list of `KEY=VALUE`.
    pub fn of(arguments: &str) -> Result<Option<Self>, Fault> {
        let (mut namespace, mut name, mut uid) = (None, None, None);
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                let message = format!("CNI_ARGS: {pair:?} is no KEY=VALUE");
                return Err(Fault::new(Code::Environment, message, "see the container runtime"));
            };
            match key {
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_UID" => uid = Some(value.to_owned()),
                _ => {}
            }
        }
        let given = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        let uid = uid.filter(|uid| !uid.is_empty());
        Ok(given(namespace).zip(given(name)).map(|(namespace, name)| Self { namespace, name, uid }))
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        Configuration::parse(text.as_bytes()).unwrap_err().code
    }

    #[test]
    fn a_configuration_that_cannot_be_used_has_the_protocols_code() {
        assert_eq!(code("{"), Code::Undecodable);
        assert_eq!(code("[]"), Code::InvalidConfiguration);
        assert_eq!(code(r#"{"cniVersion": "0.2.0"}"#), Code::IncompatibleVersion);
        assert_eq!(code("{}"), Code::IncompatibleVersion);
        assert_eq!(code(r#"{"cniVersion": "1.0.0", "bypassctl": {"kubeconfg": "x"}}"#), Code::InvalidConfiguration);
        let known = r#"{"cniVersion": "1.0.0", "name": "n", "type": "t", "runtimeConfig": {}, "bypassctl": {}}"#;
        let known = Configuration::parse(known.as_bytes()).unwrap();
        assert_eq!(known.result().unwrap_err().code, Code::InvalidConfiguration);
        assert!(known.settings.excludes("kube-system") && !known.settings.excludes("shop"));
    }

    #[test]
    fn what_came_before_is_handed_on() {
        let text =
            r#"{"cniVersion": "0.4.0", "prevResult": {"cniVersion": "0.4.0", "ips": [{"x": 1}], "future": true}}"#;
        let result = Configuration::parse(text.as_bytes()).unwrap().result().unwrap();
        assert_eq!(result, json!({"cniVersion": "0.4.0", "ips": [{"x": 1}], "future": true}));
    }

    #[test]
    fn a_pod_is_named_by_a_kubelet_alone() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=u";
        let pod = PodName::of(text).unwrap().unwrap();
        assert_eq!((pod.to_string().as_str(), pod.uid.as_deref()), ("shop/cart-0", Some("u")));
        assert_eq!(PodName::of(""), Ok(None));
        assert_eq!(PodName::of("K8S_POD_NAMESPACE=shop"), Ok(None));
        assert_eq!(PodName::of("what").unwrap_err().code, Code::Environment);
    }

    #[test]
    fn an_error_is_what_the_runtime_reads() {
        let fault = Fault::new(Code::TryLater, "away", "wait").json("1.0.0");
        assert_eq!(fault, json!({"cniVersion": "1.0.0", "code": 11, "msg": "away", "details": "wait"}));
        assert_eq!(versions("0.3.1")["cniVersion"], "0.3.1");
        assert_eq!(verb("PLAY").unwrap_err().code, Code::Environment);
    }
}
