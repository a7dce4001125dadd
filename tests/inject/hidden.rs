//! Text that says to kubectl something else than it seems to: nothing of it passes without a word.

use bypassctl::core::inject::{inject, uninject};
use bypassctl::core::route::TrafficPath;

use crate::{Command, SidecarKind, options};

fn injected(text: &str) -> Result<String, String> {
    let options = options(SidecarKind::Native, TrafficPath::Rules);
    inject(text, &options).map(|edited| edited.text).map_err(|error| error.to_string())
}

const PLAIN: &str =
    "kind: Deployment\nmetadata: {name: plain}\nspec:\n  template:\n    spec:\n      containers: [{name: a}]\n";

#[test]
fn no_alias_hides_a_template() {
    let base = "x: &base\n  template: &template\n    spec: {containers: [{name: a}]}\n";
    let name = "metadata: {name: b}\n";
    for (what, line, text) in [
        (
            "spec of deployment/default/b",
            7,
            format!("{base}kind: Deployment\n{name}spec:\n  <<: *base\n  replicas: 3\n"),
        ),
        ("spec of deployment/default/b", 6, format!("{base}kind: Deployment\n{name}spec: *base\n")),
        (
            "template of deployment/default/b",
            7,
            format!("{base}kind: Deployment\n{name}spec:\n  template: *template\n"),
        ),
        ("jobTemplate of cronjob/default/b", 6, format!("{base}kind: CronJob\n{name}spec: {{jobTemplate: *base}}\n")),
        ("kind", 4, format!("x: &k Deployment\n{name}spec: {{}}\nkind: *k\n")),
        ("an object", 5, format!("x: &p\n  kind: Pod\n  spec: {{containers: []}}\n{name}<<: *p\n")),
        (
            "apiVersion of pod",
            3,
            format!("x: &v v1\nkind: Pod\napiVersion: *v\n{name}spec: {{containers: [{{name: a}}]}}\n"),
        ),
        ("name of deployment", 3, "kind: Deployment\nspec: {x: &n n, template: {}}\nmetadata: {name: *n}\n".to_owned()),
        (
            "metadata of deployment",
            3,
            "kind: Deployment\nx: &m {name: n}\nmetadata: *m\nspec: {template: {}}\n".to_owned(),
        ),
        ("an object", 4, "kind: List\nx: &p {kind: Pod}\nitems:\n- *p\n".to_owned()),
        ("items", 3, "kind: List\nx: &p [{kind: Pod}]\nitems: *p\n".to_owned()),
        ("spec of statefulset/default/b", 3, format!("kind: StatefulSet\n{name}spec: !mine {{template: {{}}}}\n")),
        ("an object", 3, format!("x: &k spec\nkind: Deployment\n*k : {{template: {{}}}}\n{name}")),
        ("spec of deployment/default/b", 4, format!("x: &k template\nkind: Deployment\n{name}spec: {{*k : {{}}}}\n")),
        ("an object", 2, "kind: Pod\n!!binary c3BlYw==: {containers: []}\n".to_owned()),
        ("kind", 1, "kind: !!binary UG9k\nspec: {}\n".to_owned()),
        (
            "the pod template of pod/default/",
            2,
            "kind: Pod\nspec: {hostNetwork: !!binary dHJ1ZQ==, containers: []}\n".to_owned(),
        ),
        ("the pod template of pod/default/", 2, "kind: Pod\nspec: {x: &y {}, containers: [*y]}\n".to_owned()),
    ] {
        // What else changes in the stream does not drown it.
        let stream = format!("{PLAIN}---\n{text}");
        let refused = injected(&stream).expect_err(&text);
        assert!(refused.starts_with(&format!("document 2, line {}: {what}", line + 7)), "{refused}\n{stream}");
        assert!(refused.contains("kubectl create --dry-run=client -o yaml"), "{refused}");
    }
    for plain in [
        "kind: ConfigMap\nx: &a {b: c}\ndata: *a\n".to_owned(),
        format!("{PLAIN}x: &a {{b: c}}\ny: {{<<: *a}}\n"),
        PLAIN.replace("Deployment", "!!str Deployment").replace("{name: a}", "!!map {name: !!str a}"),
    ] {
        assert!(injected(&plain).is_ok(), "{plain}");
    }
}

#[test]
fn pods_of_every_list_are_found() {
    let template = "template: {spec: {containers: [{name: a}]}}";
    for (list, changed) in [
        (
            format!("kind: DeploymentList\nitems:\n- metadata: {{name: a}}\n  spec: {{{template}}}\n"),
            "deployment/default/a",
        ),
        (
            "kind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: a}]}\n".to_owned(),
            "pod/default/a",
        ),
        (format!("kind: Mine\nitems: [{{kind: Job, metadata: {{name: a}}, spec: {{{template}}}}}]\n"), "job/default/a"),
        (
            format!("kind: List\nitems:\n- kind: ReplicaSetList\n  items: [{{spec: {{{template}}}}}]\n"),
            "replicaset/default/",
        ),
    ] {
        let edited = inject(&list, &options(SidecarKind::Native, TrafficPath::Rules)).unwrap();
        assert_eq!(
            (edited.changed, edited.text.contains("bypassctl-init")),
            (vec![changed.to_owned()], true),
            "{list}"
        );
        assert_eq!(uninject(&edited.text).unwrap().text, list);
    }
}

/// Kubernetes' parser knows YAML 1.1: more words for true, more ways to write a number, and tags.
#[test]
fn values_are_what_kubectl_takes_them_for() {
    let pod = |spec: &str| {
        injected(&format!("kind: Pod\nmetadata: {{name: p}}\nspec:\n  {spec}\n  containers: [{{name: a}}]\n"))
    };
    for yes in ["yes", "on", "y", "Y", "ON", "!!bool \"true\"", "!!bool yes", "true"] {
        let refused = pod(&format!("hostNetwork: {yes}")).expect_err(yes);
        assert!(refused.contains("host network"), "{yes}: {refused}");
    }
    for no in ["no", "off", "n", "false", "!!bool \"no\"", "!!str n"] {
        assert!(pod(&format!("hostNetwork: {no}")).is_ok(), "{no}");
    }
    let ours = ["0x3108", "030410", "0o30410", "12_552", "+12552", "0b11000100001000", "12552.0", "1.2552e4"];
    for uid in ours.into_iter().chain(["!!int \"12552\"", "!!float 12552", "12552"]) {
        for place in [
            format!("securityContext: {{runAsUser: {uid}}}"),
            format!("initContainers: [{{name: i, securityContext: {{runAsUser: {uid}}}}}]"),
        ] {
            let refused = pod(&place).expect_err(uid);
            assert!(refused.contains("runs as user 12552"), "{uid}: {refused}");
        }
    }
    for other in ["0x3109", "012552", "12553"] {
        assert!(pod(&format!("securityContext: {{runAsUser: {other}}}")).is_ok(), "{other}");
    }
}

#[test]
fn ends_of_lines_that_parsers_do_not_agree_on_are_refused() {
    let pod = PLAIN.replace("Deployment", "Pod").replace("  template:\n    spec:\n      ", "  ");
    let refused = |text: &str| {
        for result in [injected(text), uninject(text).map(|edited| edited.text).map_err(|error| error.to_string())] {
            let refused = result.expect_err(text);
            assert!(refused.contains("some parsers take for a line's end"), "{refused}");
        }
        injected(text).unwrap_err()
    };
    let twice = refused(&format!("kind: ConfigMap\r\r\ndata: {{a: b}}\n---\n{pod}"));
    assert!(twice.contains("line 1: a carriage return without a line feed"), "{twice}");
    refused(&pod.replace('\n', "\r"));
    refused(&pod.replace("name: a", "name: a\r"));
    refused(&format!("{pod}\r"));
    for c in ['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'] {
        let hidden = refused(&format!("{pod}  # a comment{c}  hostNetwork: true\n"));
        assert!(hidden.contains("line 5: ") && hidden.contains(&format!("U+{:04X}", u32::from(c))), "{hidden}");
        let json = format!(r#"{{"kind":"Pod","metadata":{{"name":"{c}"}},"spec":{{"containers":[{{"name":"a"}}]}}}}"#);
        let once = injected(&json).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&once).is_ok(), "{once}");
        assert_eq!(uninject(&once).unwrap().text, json);
    }
    assert!(injected(&pod.replace('\n', "\r\n")).is_ok() && injected(&format!("\u{feff}{pod}")).is_ok());
    assert!(injected(&pod.replace("name: a", "name: a\0b")).is_err());
}

/// A sidecar that would not start, and an app that would not listen.
#[test]
fn ports_of_the_agents_own_are_refused_and_warned_of() {
    let pod = "kind: Pod\nmetadata:\n  name: p\n  annotations: {bypassctl.io/remoting-port: \"15550\"}\nspec:\n  containers: [{name: a}]\n";
    let refused = injected(pod).unwrap_err();
    assert!(refused.contains("15550") && refused.contains("--admin-port"), "{refused}");
    for (command, port) in [("inject", "15550"), ("inject", "15552"), ("inject", "2552,15553"), ("webhook", "15550")] {
        let tls = ["--tls-dir=/nowhere", "--listen=127.0.0.1:0"];
        let options = if command == "webhook" { &tls[..] } else { &[] };
        let output = Command::new(env!("CARGO_BIN_EXE_bypassctl"))
            .env_clear()
            .args([command, "--remoting-port", port])
            .args(options)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("give each use ports of its own"), "{said}");
    }
    let notes = |spec: &str, path| {
        let edited =
            inject(&format!("kind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n"), &options(SidecarKind::Native, path));
        edited.unwrap().notes.into_iter().map(|(_, note)| note).filter(|note| note.contains("sidecar's own")).count()
    };
    let app = |port: &str| format!("{{containers: [{{name: a, ports: [{{containerPort: {port}}}]}}]}}");
    for port in ["15550", "15552", "15553", "0x3cbe"] {
        assert_eq!(notes(&app(port), TrafficPath::Rules), 1, "{port}");
    }
    assert_eq!(notes(&app("15553"), TrafficPath::Ports), 0, "nobody listens there");
    assert_eq!(notes(&app("15550, protocol: UDP"), TrafficPath::Rules), 0);
    assert_eq!(
        notes(
            "{containers: [{name: a}], initContainers: [{name: i, ports: [{containerPort: 15550}]}]}",
            TrafficPath::Rules
        ),
        1
    );
}
