//! What shells, man(1) and kubectl make of the command line.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).env_clear().args(args).output().unwrap()
}

fn bypassctl() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bypassctl"))
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn bash_completes_commands_and_options_and_other_shells_have_theirs() {
    let script = text(&run(bypassctl(), &["completions", "bash"]));
    let complete = |words: &str| {
        let asked = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _bypassctl bypassctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &asked]).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("bypassctl inj"), ["inject"]);
    assert_eq!(complete("bypassctl proxy --readiness"), ["--readiness-gate"]);
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = text(&run(bypassctl(), &["completions", shell]));
        assert!(script.contains("readiness-gate") && script.contains("webhook"), "{shell}: {script:.200}");
    }
    assert_eq!(run(bypassctl(), &["completions", "csh"]).status.code(), Some(2));
}

#[test]
fn every_command_has_a_man_page() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("share/man/man1");
    text(&run(bypassctl(), &["man", dir.to_str().unwrap()]));
    let help = text(&run(bypassctl(), &["--help"]));
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    // A command begins its line; what does not is the rest of a description.
    let commands = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"webhook") && names.contains(&"man"), "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        let page = fs::read_to_string(dir.join(format!("bypassctl-{name}.1"))).unwrap_or_default();
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page:.200}");
    }

    fs::write(scratch.path().join("file"), "").unwrap();
    let refused = run(bypassctl(), &["man", scratch.path().join("file/man").to_str().unwrap()]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(5) && error.contains("cannot make the directory"), "{error}");
}

#[test]
fn as_kubectl_bypass_it_is_the_same_program() {
    let scratch = tempfile::tempdir().unwrap();
    let plugin = scratch.path().join("kubectl-bypass");
    symlink(bypassctl(), &plugin).unwrap();
    assert_eq!(text(&run(&plugin, &["--version"])), concat!("bypassctl ", env!("CARGO_PKG_VERSION"), "\n"));
    let healthy = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/checks/healthy/akka-minimal.yaml");
    let asked = ["check", "files", healthy];
    assert_eq!(text(&run(&plugin, &asked)), text(&run(bypassctl(), &asked)));
    let refused = run(&plugin, &["check", "nothing"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// Whoever may make a Service named `bypassctl-admin` must not keep sidecars from starting.
#[test]
fn variables_of_services_are_no_options() {
    let init = |value: &str, args: &[&str]| {
        let mut command = Command::new(bypassctl());
        command.env_clear().env("BYPASSCTL_LOG_LEVEL", "debug");
        for port in ["ADMIN", "INBOUND", "OUTBOUND", "REMOTING", "MANAGEMENT"] {
            command.env(format!("BYPASSCTL_{port}_PORT"), value);
        }
        command.args(["init", "--dry-run"]).args(args).output().unwrap()
    };
    let plain = text(&run(bypassctl(), &["init", "--dry-run"]));
    for link in ["tcp://10.96.0.7:15550", "udp://10.96.0.7:53", "sctp://[fd00::7]:3868"] {
        let linked = init(link, &[]);
        assert_eq!(text(&linked), plain, "{link}");
        let said = String::from_utf8_lossy(&linked.stderr).into_owned();
        assert!(said.contains("BYPASSCTL_ADMIN_PORT") && said.contains("a Service's"), "{said}");
        assert_ne!(text(&init(link, &["--remoting-port", "25520"])), plain, "an option still counts beside {link}");
    }
    for wrong in ["tcp://15550", "tcp://service:15550", "http://10.96.0.7:80"] {
        assert_eq!(init(wrong, &[]).status.code(), Some(2), "{wrong}");
    }
}
