use std::io::Write as _;

use super::*;
use crate::cli;
use crate::core::config::RedirectMode;

fn parsed(file: &str, args: &[&str]) -> Result<Cli, Error> {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(file.as_bytes()).unwrap();
    let fixed = ["bypassctl", "--config", config.path().to_str().unwrap()];
    parse(fixed.iter().chain(args).map(OsString::from).collect()).map(|parsed| parsed.cli)
}

fn init(file: &str, args: &[&str]) -> cli::InitArgs {
    let args: Vec<&str> = std::iter::once("init").chain(args.iter().copied()).collect();
    match parsed(file, &args).unwrap().command {
        cli::Command::Init(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_long_option_is_an_environment_variable_of_the_same_name() {
    fn walk(command: &Command) {
        for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
            let Some(long) = arg.get_long() else { continue };
            let env = arg.get_env().unwrap_or_else(|| panic!("--{long} has no environment variable"));
            let expected = match long {
                // The names that manifests give to what the downward API says.
                "pod-ip" | "host-ip" | "pod-name" | "pod-namespace" | "pod-uid" | "node-name" => {
                    long.to_uppercase().replace('-', "_")
                }
                _ => format!("BYPASSCTL_{}", long.to_uppercase().replace('-', "_")),
            };
            assert_eq!(env.to_str().unwrap(), expected);
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&Cli::command());
}

/// Options with a variable and their names, of all commands.
fn variables(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

/// Of a Service Kubernetes sets `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT`, `NAME_SERVICE_PORT_WHICH`, `NAME_PORT` and
/// `NAME_PORT_n_TCP` with `_PROTO`, `_PORT` and `_ADDR`.
#[test]
fn no_service_can_set_an_option() {
    let variables = variables(&Cli::command());
    assert!(variables.len() > 100, "{}", variables.len());
    let mut ports = std::collections::BTreeSet::new();
    for name in variables {
        assert!(!name.ends_with("_SERVICE_HOST") && !name.contains("_SERVICE_PORT"), "{name}");
        for link in name.match_indices("_PORT_").map(|(at, _)| &name[at + 6..]) {
            assert!(!link.starts_with(|c: char| c.is_ascii_digit()), "{name}");
        }
        for value in ["tcp://10.96.0.7:80", "udp://10.96.0.7:53", "sctp://[fd00::7]:3868", "tcp://[fd00::7]:443"] {
            assert_eq!(is_service_link(&name, value), name.ends_with("_PORT"), "{name}={value}");
        }
        for meant in ["15550", "2552,25520-25530", "tcp://15550", "tcp://:80", "http://10.96.0.7:80", "tcp://a:80", ""]
        {
            assert!(!is_service_link(&name, meant), "{name}={meant}");
        }
        if name.ends_with("_PORT") {
            ports.insert(name);
        }
    }
    assert!(ports.contains("BYPASSCTL_ADMIN_PORT") && ports.len() >= 5, "{ports:?}");
}

#[test]
fn the_file_sets_what_the_command_line_leaves_open() {
    let args = init("remoting-port: [25520, 2553-2554]\nagent-uid: 7\n", &["--agent-uid", "8"]);
    let ports: Vec<String> = args.cluster.remoting_port.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["25520", "2553-2554"]);
    assert_eq!(args.agent_uid, 8);
}

#[test]
fn a_commands_own_section_beats_the_shared_keys() {
    let file = "mode: capture\ninit:\n  mode: bypass\nproxy:\n  mode: permissive\n";
    assert_eq!(init(file, &[]).mode, RedirectMode::Bypass);
}

#[test]
fn flags_can_be_set_in_the_file() {
    assert!(init("no-verify: true\n", &[]).no_verify);
    assert!(!init("no-verify: false\n", &[]).no_verify);
}

#[test]
fn a_key_of_another_command_is_no_error() {
    let args = init("handshake-timeout: 3\n", &[]);
    assert_eq!(args.agent_uid, 12552);
}

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for (file, named) in [
        ("remotingport: 1\n", "remotingport"),
        ("init:\n  allow: ca\n", "allow"),
        ("config: other.yaml\n", "config"),
        ("init: 3\n", "init"),
        ("agent-uid: {a: 1}\n", "agent-uid"),
        ("- 1\n", "YAML"),
    ] {
        let error = parsed(file, &["init"]).unwrap_err().to_string();
        assert!(error.contains(named), "{file:?}: {error}");
    }
}

#[test]
fn a_bad_value_in_the_file_is_refused_as_the_option_would_be() {
    let error = parsed("remoting-port: 70000\n", &["init"]).unwrap_err().to_string();
    assert!(error.contains("70000") && error.contains("--remoting-port"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = parse(["bypassctl", "--config", "/nowhere.yaml", "init"].map(OsString::from).to_vec()).unwrap_err();
    assert!(error.to_string().contains("/nowhere.yaml"), "{error}");
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    let args = ["proxy", "--otlp-endpoint", "http://user:hush@collector:4318"];
    let error = parsed("", &args).map(|_| ()).unwrap_err().to_string();
    assert!(!error.contains("hush") && !error.contains("user:"), "{error}");
    assert!(error.contains("http://…@collector:4318") && error.contains("a user's name or a password"), "{error}");
}
