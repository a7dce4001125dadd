//! The executable: arguments, forms of output, exit codes, files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::broken::{AKKA, BYPASSCTL, MINIMAL};

fn bypassctl(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    let command = command.args(args).env_remove("BYPASSCTL_OUTPUT");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // It may end without reading, and then the pipe is closed.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn every_form_has_the_same_exit_code() {
    let broken = AKKA.replace("serviceaccount:shop:", "serviceaccount:default:");
    for form in ["text", "short", "json", "junit"] {
        let well = bypassctl(&["check", "files", "-o", form, "-"], AKKA);
        assert_eq!(well.status.code(), Some(0), "{form}: {}", text(&well));
        let ill = bypassctl(&["check", "files", "-o", form, "-"], &broken);
        assert_eq!(ill.status.code(), Some(1), "{form}");
        assert!(text(&ill).contains("rbac-subject-namespace"), "{form}: {}", text(&ill));
    }
}

#[test]
fn a_warning_fails_unless_errors_alone_are_to() {
    let warned = AKKA.replace("maxUnavailable: 0", "maxUnavailable: 1");
    assert_eq!(bypassctl(&["check", "files", "-"], &warned).status.code(), Some(1));
    assert_eq!(bypassctl(&["check", "files", "--fail-on", "error", "-"], &warned).status.code(), Some(0));
    let suppressed = bypassctl(&["check", "files", "--suppress", "rollout-unavailable", "-"], &warned);
    assert_eq!(suppressed.status.code(), Some(0));
    assert_eq!(bypassctl(&["check", "files", "--suppress", "no-such-check", "-"], &warned).status.code(), Some(2));
}

#[test]
fn json_is_what_the_schema_says() {
    let schema: Value = serde_json::from_slice(&bypassctl(&["schema", "check"], "").stdout).expect("a schema");
    let output = bypassctl(&["check", "files", "-o", "json", "-"], &BYPASSCTL.replace("NET_ADMIN", "NET_RAW"));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let item = &schema["properties"]["checks"]["items"];
    let mut known: Vec<&String> = item["properties"].as_object().expect("properties").keys().collect();
    known.sort();
    for check in report["checks"].as_array().expect("checks") {
        let mut keys: Vec<&String> = check.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, known);
        for (key, rules) in item["properties"].as_object().expect("properties") {
            let allowed = rules["enum"].as_array().is_none_or(|values| values.contains(&check[key]));
            assert!(allowed && check[key].is_string(), "{key}: {check}");
        }
    }
    assert!(report["summary"]["fail"].as_u64() == Some(1), "{}", report["summary"]);
}

#[test]
fn directories_are_read_with_what_is_below_and_values_are_no_manifests() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::create_dir(dir.path().join(".git")).unwrap();
    fs::write(dir.path().join("sub/app.yaml"), MINIMAL).unwrap();
    fs::write(dir.path().join("values.yaml"), "replicas: 3\n").unwrap();
    fs::write(dir.path().join(".git/broken.yaml"), "[").unwrap();
    fs::write(dir.path().join("notes.txt"), "[").unwrap();
    std::os::unix::fs::symlink("..", dir.path().join("sub/up")).unwrap();
    let output = bypassctl(&["check", "files", "--all", dir.path().to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("1 found: Deployment/default/my-service"), "{}", text(&output));
}

#[test]
fn nothing_to_read_is_a_usage_error_and_a_bad_file_is_a_result() {
    assert_eq!(bypassctl(&["check", "files", "-"], "# nothing\n").status.code(), Some(2));
    assert_eq!(bypassctl(&["check", "files", "/no/such/file"], "").status.code(), Some(2));
    assert_eq!(bypassctl(&["check", "files"], "").status.code(), Some(2));
    let bad = bypassctl(&["check", "files", "-"], "{{ .Values }}\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad).contains("helm template"), "{}", text(&bad));
}

#[test]
fn the_namespace_is_that_of_objects_that_name_none() {
    let text_ = MINIMAL.replace("serviceaccount:default:", "serviceaccount:shop:");
    assert_eq!(bypassctl(&["check", "files", "-n", "shop", "-"], &text_).status.code(), Some(0));
    assert_eq!(bypassctl(&["check", "files", "-"], &text_).status.code(), Some(1));
}

#[test]
fn other_ports_are_found_when_they_are_named() {
    let other = MINIMAL.replace("2552", "9001").replace("8558", "9002").replace("name: remoting", "name: cluster");
    let found = |args: &[&str]| text(&bypassctl(args, &other)).contains("1 found: Deployment");
    assert!(!found(&["check", "files", "--all", "-"]));
    assert!(found(&["check", "files", "--all", "--remoting-port", "9001", "--management-port", "9002", "-"]));
}

#[test]
fn saved_facts_are_their_owner_s_alone_and_hold_no_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("facts.json");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let secret = AKKA.replace("valueFrom: {secretKeyRef: {name: db, key: password}}", "value: swordfish");
    bypassctl(&["check", "files", "--save-facts", file.to_str().unwrap(), "-"], &secret);
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved.contains("my-service") && !saved.contains("swordfish"), "{saved}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-done stays");
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for special in [pipe.to_str().unwrap(), dir.path().to_str().unwrap(), "-"] {
        let refused = bypassctl(&["check", "files", "--save-facts", special, "-"], AKKA);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("a file of their own"), "{special}: {said}");
    }
    assert!(
        std::os::unix::fs::FileTypeExt::is_fifo(&fs::symlink_metadata(&pipe).unwrap().file_type()),
        "it is left alone"
    );
}

#[test]
fn a_check_is_explained_without_a_network() {
    let output = bypassctl(&["check", "explain", "rbac-subject-namespace"], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("What to do:"), "{}", text(&output));
    assert_eq!(bypassctl(&["check", "explain", "nothing"], "").status.code(), Some(2));
}

#[test]
fn a_stranger_s_manifest_does_nothing_to_the_terminal() {
    let evil = AKKA.replace("serviceaccount:shop:", "serviceaccount:\\e[2J\\u202e:").replace(
        "name: system:serviceaccount:\\e[2J\\u202e:my-service",
        "name: \"system:serviceaccount:\\e[2J\\u202e:my-service\"",
    );
    for form in ["text", "short", "json", "junit"] {
        let output = text(&bypassctl(&["check", "files", "-o", form, "-"], &evil));
        assert!(output.contains("rbac-subject-namespace"), "{form}: {output}");
        assert!(!output.contains(['\u{1b}', '\u{202e}']), "{form}: {output:?}");
    }
}

#[test]
fn where_nothing_is_judged_nothing_is_called_healthy() {
    let codes: Vec<String> = text(&bypassctl(&["check", "explain"], ""))
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned))
        .filter(|code| code != "something-judged")
        .collect();
    let all = codes.join(",");
    let services = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
    for (args, manifest) in
        [(vec!["--suppress", &all], AKKA), (vec![], services), (vec!["--fail-on", "error"], services)]
    {
        for form in ["text", "short", "json", "junit"] {
            let output = bypassctl(&[&["check", "files", "-o", form][..], &args, &["-"]].concat(), manifest);
            assert_eq!(output.status.code(), Some(1), "{form}: {}", text(&output));
            assert!(text(&output).contains("nothing at all was judged"), "{form}: {}", text(&output));
        }
    }
    let meant = bypassctl(&["check", "files", "--suppress", "something-judged", "-"], services);
    assert_eq!(meant.status.code(), Some(0), "{}", text(&meant));
}

#[test]
fn one_file_that_cannot_be_read_does_not_hide_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = dir.path().join("app.yaml");
    fs::write(&app, AKKA).unwrap();
    let output = bypassctl(&["check", "files", "--all", app.to_str().unwrap(), "/no/such/file"], "");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/no/such/file") && said.contains("No such file"), "{said}");
    assert!(said.contains("1 found: Deployment/shop/my-service") && said.contains("1 failed"), "{said}");
}

#[test]
fn utf_16_is_read_as_kubectl_reads_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, pair) in [("little.yaml", u16::to_le_bytes as fn(u16) -> [u8; 2]), ("big.yaml", u16::to_be_bytes)] {
        let file = dir.path().join(name);
        let bytes: Vec<u8> = "\u{feff}".encode_utf16().chain(AKKA.encode_utf16()).flat_map(pair).collect();
        fs::write(&file, bytes).unwrap();
        let output = bypassctl(&["check", "files", file.to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
    }
    let file = dir.path().join("neither.yaml");
    fs::write(&file, [0xff, 0xfe, 0x41]).unwrap();
    let output = bypassctl(&["check", "files", file.to_str().unwrap()], "");
    assert!(
        output.status.code() == Some(1) && text(&output).contains("neither of UTF-8 nor of UTF-16"),
        "{}",
        text(&output)
    );
}

#[test]
fn saved_facts_are_judged_from_a_file_and_from_standard_input() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("facts.json");
    let broken = AKKA.replace("serviceaccount:shop:", "serviceaccount:default:");
    bypassctl(&["check", "files", "--save-facts", file.to_str().unwrap(), "-"], &broken);
    let from_file = bypassctl(&["check", "cluster", "--facts", file.to_str().unwrap()], "");
    let from_input = bypassctl(&["check", "cluster", "--facts", "-"], &fs::read_to_string(&file).unwrap());
    assert_eq!(from_file.status.code(), Some(1), "{}", text(&from_file));
    assert!(text(&from_input).contains("rbac-subject-namespace"), "{}", text(&from_input));
    assert_eq!(text(&from_file), text(&from_input));
    let nothing = bypassctl(&["check", "cluster", "--facts", "-"], "");
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(2) && said.contains("standard input"), "{said}");
}

#[test]
fn all_checks_or_one_are_explained_and_not_both() {
    let both = bypassctl(&["check", "explain", "--all", "rbac-role"], "");
    assert_eq!(both.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&both.stderr).contains("cannot be used with"), "{both:?}");
}

#[test]
fn a_code_that_is_none_is_refused_in_the_configuration_file_too() {
    let schema: Value = serde_json::from_slice(&bypassctl(&["schema", "config"], "").stdout).expect("a schema");
    let codes = &schema["properties"]["suppress"]["anyOf"][0]["enum"];
    assert!(codes.as_array().is_some_and(|codes| codes.contains(&"rbac-role".into())), "{codes}");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.yaml");
    for (suppressed, code) in [("rbac-role", 0), ("rbac-rule", 2)] {
        fs::write(&file, format!("suppress: [{suppressed}]\n")).unwrap();
        let output = bypassctl(&["check", "files", "--config", file.to_str().unwrap(), "-"], AKKA);
        assert_eq!(output.status.code(), Some(code), "{suppressed}: {output:?}");
    }
}

#[test]
fn the_schema_of_the_configuration_file_is_published_as_it_is() {
    let printed = text(&bypassctl(&["schema", "config"], ""));
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema/config.json");
    let published = fs::read_to_string(page).expect("docs/schema/config.json");
    assert!(published == printed, "write it anew: bypassctl schema config > docs/schema/config.json");
    let schema: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(schema["properties"]["mode"]["enum"], serde_json::Value::Null, "init and proxy have modes of their own");
    assert!(schema["properties"]["proxy"]["properties"]["mode"]["enum"].is_array());
    assert_eq!(schema["additionalProperties"], false);
}
