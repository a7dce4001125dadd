//! The command line, the environment and the configuration file as one: flag beats environment beats file.
//!
//! The file's values become the default values of the options that it names, so that they are checked by the same
//! parsers, with the same messages, as the options themselves.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory as _, Error, FromArgMatches as _};
use serde_json::Value;

use crate::cli::Cli;

/// What was asked for, and which variables were taken for nobody's wish.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) cli: Cli,
    /// Names of variables that are a Service's.
    pub(super) links: Vec<String>,
}

/// Parses the arguments, `args[0]` being the program's name.
///
/// # Errors
/// clap's, for arguments, environment and file alike; `--help` and `--version` are errors of clap's too.
pub(super) fn parse(args: Vec<OsString>) -> Result<Parsed, Error> {
    let is_called_by_a_runtime = is_cni_plugin(&args);
    let args =
        if is_called_by_a_runtime { args.into_iter().chain(std::iter::once("cni".into())).collect() } else { args };
    let command = Cli::command();
    // The environment is the runtime's: what it sets is not meant for the plugin.
    let command = if is_called_by_a_runtime { without_variables(command, &|_| true) } else { command };
    let links = service_links(&command);
    let command = without_variables(command, &|name| links.iter().any(|link| name == &link[..]));
    let command = if is_plugin(&args) { command.bin_name("kubectl bypass") } else { command };
    let command = match config_path(&command, &args) {
        Some(path) => with_file(command, &path)?,
        None => command,
    };
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(args).map_err(without_secrets)?)?;
    Ok(Parsed { cli, links })
}

/// Variables of options that a Service of this namespace has set, not a person: whoever may make a Service named
/// `bypassctl-admin` would else keep every pod's sidecar from starting.
fn service_links(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).filter(|name| {
        let value = std::env::var_os(name);
        value.as_deref().and_then(OsStr::to_str).is_some_and(|value| is_service_link(name, value))
    });
    let mut links: Vec<String> = own.map(str::to_owned).collect();
    links.extend(command.get_subcommands().flat_map(service_links));
    links.sort_unstable();
    links.dedup();
    links
}

/// Whether a variable says what Kubernetes says of a Service: NAME_PORT=tcp://ADDRESS:PORT (kubernetes
/// pkg/kubelet/envvars, `makeLinkVariables`). Of the other names that it sets no option has one.
fn is_service_link(name: &str, value: &str) -> bool {
    let Some((protocol, address)) = value.split_once("://") else { return false };
    name.ends_with("_PORT") && matches!(protocol, "tcp" | "udp" | "sctp") && address.parse::<SocketAddr>().is_ok()
}

/// A URL's user and password are repeated to nobody.
fn without_secrets(mut error: Error) -> Error {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some((scheme, rest)) = value.split_once("://")
        && let Some((_, host)) = rest.rsplit_once('@')
    {
        let value = format!("{scheme}://…@{host}");
        error.insert(ContextKind::InvalidValue, ContextValue::String(value));
    }
    error
}

/// Installed as `kubectl-bypass` it is `kubectl bypass`, and its usage says so.
fn is_plugin(args: &[OsString]) -> bool {
    let name = args.first().and_then(|program| Path::new(program).file_stem());
    name.is_some_and(|name| name == "kubectl-bypass")
}

/// A container runtime calls the plugin by its name and without arguments.
fn is_cni_plugin(args: &[OsString]) -> bool {
    let name = args.first().and_then(|program| Path::new(program).file_name());
    args.len() == 1 && name.is_some_and(|name| name == crate::core::cni::TYPE)
}

/// Options without these variables of theirs.
fn without_variables(command: Command, which: &dyn Fn(&OsStr) -> bool) -> Command {
    let reset = |arg: Arg| if arg.get_env().is_some_and(which) { arg.env(Resettable::Reset) } else { arg };
    command.mut_args(reset).mut_subcommands(|inner| without_variables(inner, which))
}

fn config_path(command: &Command, args: &[OsString]) -> Option<PathBuf> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(args).ok()?;
    let mut deepest = &matches;
    let mut path = deepest.try_get_one::<PathBuf>("config").ok().flatten().cloned();
    while let Some((_, inner)) = deepest.subcommand() {
        deepest = inner;
        path = deepest.try_get_one::<PathBuf>("config").ok().flatten().cloned().or(path);
    }
    path
}

fn with_file(command: Command, path: &Path) -> Result<Command, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => with_text(command, path, &text),
        Err(error) => Err(fault(path, &format!("cannot be read: {error}"))),
    }
}

fn fault(path: &Path, text: &str) -> Error {
    Cli::command().error(ErrorKind::InvalidValue, format!("{}: {text}", path.display()))
}

/// The command with the file's values as defaults.
pub(super) fn with_text(mut command: Command, path: &Path, text: &str) -> Result<Command, Error> {
    let fail = |text: String| fault(path, &text);
    let file: BTreeMap<String, Value> = if text.trim().is_empty() {
        BTreeMap::new()
    } else {
        serde_saphyr::from_str(text).map_err(|error| fail(format!("is not a YAML mapping: {error}")))?
    };
    // A key of one command's own section beats the same key at the top.
    let (sections, shared): (Vec<_>, Vec<_>) = file.into_iter().partition(|(key, _)| is_section(&command, key));
    for (key, value) in shared {
        let values = scalars(&value).ok_or_else(|| fail(format!("{key}: a value or a list of values is expected")))?;
        let mut known = false;
        command = set_default(command, &key, &values, &mut known);
        if !known {
            return Err(fail(format!(
                "unknown key {key:?}; keys are the long names of options, or the name of a command"
            )));
        }
    }
    for (section, value) in sections {
        let Value::Object(keys) = value else {
            return Err(fail(format!(
                "{section}: is a command, so its value must be a mapping of that command's options"
            )));
        };
        for (key, value) in keys {
            let values = scalars(&value)
                .ok_or_else(|| fail(format!("{section}.{key}: a value or a list of values is expected")))?;
            let mut known = false;
            command = command.mut_subcommand(&section, |inner| set_default(inner, &key, &values, &mut known));
            if !known {
                return Err(fail(format!(
                    "unknown key {key:?} in {section:?}: `bypassctl {section}` has no such option"
                )));
            }
        }
    }
    Ok(command)
}

fn is_section(command: &Command, key: &str) -> bool {
    command.get_subcommands().any(|inner| inner.get_name() == key)
}

fn set_default(mut command: Command, key: &str, values: &[String], known: &mut bool) -> Command {
    let id = command.get_arguments().find(|arg| arg.get_long() == Some(key)).map(|arg| arg.get_id().clone());
    // The file cannot name another file.
    if let Some(id) = id.filter(|_| key != "config") {
        *known = true;
        let values = values.to_vec();
        command = command.mut_arg(id, |arg| arg.default_values(values));
    }
    let inner: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    for name in inner {
        command = command.mut_subcommand(name, |inner| set_default(inner, key, values, known));
    }
    command
}

fn scalars(value: &Value) -> Option<Vec<String>> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(scalar).collect(),
        single => scalar(single).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests;
