//! `bypassctl schema`: JSON Schemas of what other programs read, and of what they write for us.

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use serde_json::{Map, Value, json};

use crate::cli::{Cli, SchemaArgs, SchemaOf};
use crate::commands::{Failure, Outcome, print};

const CHECK: &str = include_str!("../../docs/schema/check.json");

pub(super) fn run(args: &SchemaArgs) -> Result<Outcome, Failure> {
    match args.of {
        SchemaOf::Check => print(CHECK),
        SchemaOf::Config => print(&format!("{:#}\n", config(&Cli::command()))),
    }?;
    Ok(Outcome::Done)
}

/// Of the configuration file: long names of options, for all commands or in a command's own section.
fn config(command: &Command) -> Value {
    let mut properties = keys(command);
    for section in command.get_subcommands().filter(|section| !keys(section).is_empty()) {
        let description = format!("For `bypassctl {}` alone", section.get_name());
        let section_keys = json!({
            "description": description, "type": "object", "properties": keys(section), "additionalProperties": false,
        });
        properties.insert(section.get_name().to_owned(), section_keys);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bypassctl --config",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// The options of a command and of those below it, by name.
fn keys(command: &Command) -> Map<String, Value> {
    let mut keys = Map::new();
    // The file cannot name another file, and what asks for help is no setting.
    let settings =
        command.get_arguments().filter(|arg| !["config", "help", "version"].contains(&arg.get_id().as_str()));
    for (name, arg) in settings.filter_map(|arg| Some((arg.get_long()?, arg))) {
        keys.insert(name.to_owned(), value(arg));
    }
    for inner in command.get_subcommands() {
        for (name, schema) in self::keys(inner) {
            let known = keys.entry(name).or_insert_with(|| schema.clone());
            // Commands that differ in what they take are described in their own sections.
            if *known != schema {
                *known = json!({"description": "See the sections of the commands"});
            }
        }
    }
    keys.sort_keys();
    keys
}

fn value(arg: &Arg) -> Value {
    let names: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let scalar = match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => json!({"type": "boolean"}),
        _ if names.is_empty() => json!({"type": ["string", "number", "boolean"]}),
        _ => json!({"enum": names}),
    };
    let several = matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
    let mut schema =
        if several { json!({"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}]}) } else { scalar };
    if let (Some(help), Value::Object(schema)) = (arg.get_help(), &mut schema) {
        schema.insert("description".to_owned(), help.to_string().into());
    }
    schema
}
