//! The variables that a container is given, as far as a manifest shows them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar};

use super::settings::is_jvm_options;
use crate::core::facts::{Facts, REMOVED};
use crate::core::report::Observed;

/// A variable's value, `None` where something gives it one that is not to be seen, and who gives it.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) value: Option<String>,
    pub(super) source: String,
}

/// A container's variables by their names.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) variables: BTreeMap<String, Variable>,
    /// Whether variables may be there of which not even the name is known.
    is_partial: bool,
}

impl Environment {
    pub(super) fn of(container: &Container, labels: &BTreeMap<String, String>, namespace: &str, facts: &Facts) -> Self {
        let mut environment = Self::default();
        let map_of = |name: &str| match &facts.objects.config_maps {
            Observed::Seen(maps) => maps.get_key_value(&format!("{namespace}/{name}")),
            Observed::Unavailable(_) => None,
        };
        for source in container.env_from.iter().flatten() {
            let map = source.config_map_ref.as_ref().and_then(|from| map_of(&from.name));
            environment.is_partial |= map.is_none();
            for (name, value) in map.into_iter().flat_map(|(_, map)| map) {
                let name = format!("{}{name}", source.prefix.as_deref().unwrap_or_default());
                let source = format!("env {name} of ConfigMap {}", map.map_or("", |(key, _)| key));
                environment.add(&name, Some(value.clone()), source);
            }
        }
        // What comes later beats what came before, and sees it.
        for variable in container.env.iter().flatten() {
            let key = variable.value_from.as_ref().and_then(|from| from.config_map_key_ref.as_ref());
            let (value, source) = match key {
                Some(key) => {
                    let value = map_of(&key.name).and_then(|(_, map)| map.get(&key.key)).cloned();
                    (value, format!("env {} of ConfigMap {namespace}/{}", variable.name, key.name))
                }
                None => (environment.value(variable, labels, namespace), format!("env {}", variable.name)),
            };
            environment.add(&variable.name, value, source);
        }
        environment
    }

    fn add(&mut self, name: &str, value: Option<String>, source: String) {
        // What whoever renders or saves has left out, or a shell fills in, is not known; of options each is looked at alone.
        let is_unclear = |value: &str| ["${", "{{", REMOVED].iter().any(|unknown| value.contains(unknown));
        let value = value.filter(|value| is_jvm_options(name) || !is_unclear(value));
        self.variables.insert(name.to_owned(), Variable { value, source });
    }

    fn value(&self, variable: &EnvVar, labels: &BTreeMap<String, String>, namespace: &str) -> Option<String> {
        let Some(from) = &variable.value_from else {
            return self.expanded(variable.value.as_deref().unwrap_or_default());
        };
        match from.field_ref.as_ref()?.field_path.as_str() {
            "metadata.namespace" => Some(namespace.to_owned()),
            path => labels.get(path.strip_prefix("metadata.labels['")?.strip_suffix("']")?).cloned(),
        }
    }

    /// With `$(NAME)` filled in, as Kubernetes does (API, EnvVar: of a name that nothing defines the reference stays, and
    /// `$$` is a dollar sign); `None` where a value is not to be seen.
    pub(super) fn expanded(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out += before;
            rest = after;
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let Some((name, after)) = rest.strip_prefix('(').and_then(|inside| inside.split_once(')')) else {
                out.push('$');
                continue;
            };
            match self.variables.get(name) {
                Some(variable) => out += variable.value.as_deref()?,
                None if self.is_partial || is_of_a_service(name) => return None,
                None => out += &format!("$({name})"),
            }
            rest = after;
        }
        Some(out + rest)
    }
}

/// Whether Kubernetes may set it by itself, for a Service.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT")
}
