//! `bypassctl render`: what it writes passes `check files`, and what it cannot write it says.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bypassctl(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bypassctl"))
        .env_clear()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn rendered(args: &[&str], input: &str) -> String {
    let output = bypassctl(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn healthy() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checks/healthy");
    let mut files: Vec<PathBuf> = dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(files.len() > 3, "{files:?}");
    files
}

fn failures(text: &str) -> BTreeSet<String> {
    let output = bypassctl(&["check", "files", "--output", "json", "-"], text);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed = report["checks"].as_array().unwrap().iter().filter(|check| check["status"] == "fail");
    failed.map(|check| check["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_rendered_from_healthy_manifests_is_as_healthy() {
    for file in healthy() {
        let text = std::fs::read_to_string(&file).unwrap();
        let before = failures(&text);
        for mesh in ["istio", "linkerd", "kuma", "consul"] {
            let annotated = rendered(&["render", "annotations", "--mesh", mesh, "-"], &text);
            let mut after = failures(&annotated);
            // What bypasses a mesh has lost its encryption, and a manifest that was in no mesh is in one now: both are said.
            for said in ["mesh-mtls-lost", "network-policy-mesh"] {
                after.remove(said);
            }
            assert!(after.is_subset(&before), "{mesh} {}: {after:?}", file.display());
            assert_eq!(rendered(&["render", "annotations", "--mesh", mesh], &annotated), annotated, "twice is once");
        }
        let policy = rendered(&["render", "network-policy"], &text);
        let rights = rendered(&["render", "rbac"], &text);
        let after = failures(&format!("{text}\n---\n{policy}---\n{rights}"));
        assert!(after.is_subset(&before), "{}: {after:?}", file.display());
    }
}

/// Of two policies with one name the second replaces the first, without a word of `kubectl`.
#[test]
fn namesakes_of_several_kinds_get_policies_of_their_own() {
    let cart = |kind: &str, name: &str, ports: [u16; 2]| {
        format!(
            "---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             selector: {{matchLabels: {{app: {name}, of: {kind}}}}}\n  template:\n    \
             metadata: {{labels: {{app: {name}, of: {kind}}}}}\n    spec:\n      containers:\n      - name: app\n        \
             ports: [{{containerPort: {}, name: remoting}}, {{containerPort: {}, name: management}}]\n",
            ports[0], ports[1]
        )
    };
    let carts = cart("Deployment", "cart", [2552, 8558]) + &cart("StatefulSet", "cart", [17355, 7626]);
    let all = carts.clone() + &cart("Deployment", "cart-remoting", [2552, 8558]);
    let written = rendered(&["render", "network-policy"], &all);
    let policies = serde_saphyr::from_multiple::<Value>(&written).unwrap();
    let names: Vec<&str> = policies.iter().map(|policy| policy["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cart-remoting-deployment", "cart-remoting-statefulset", "cart-remoting-remoting"]);
    let ports: Vec<&Value> = policies.iter().map(|policy| &policy["spec"]["ingress"][0]["ports"][0]["port"]).collect();
    assert_eq!(ports, [2552, 17355, 2552]);
    let rights = rendered(&["render", "rbac"], &all);
    assert_eq!(serde_saphyr::from_multiple::<Value>(&rights).unwrap().len(), 2, "a role and its binding: {rights}");
}

#[test]
fn tls_settings_are_seen_as_the_app_s_own_tls() {
    let manifest = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  template:
    metadata:
      labels: {app: shop, sidecar.istio.io/inject: \"true\"}
    spec:
      containers:
      - name: app
        ports: [{containerPort: 17355, name: remoting}, {containerPort: 7626, name: management}]
";
    let annotated = rendered(&["render", "annotations", "--mesh", "istio"], manifest);
    assert!(failures(&annotated).contains("mesh-mtls-lost"));
    let options = rendered(&["render", "tls", "--framework", "pekko", "--output", "options"], "");
    let environment = format!("        env: [{{name: JAVA_TOOL_OPTIONS, value: \"{}\"}}]\n", options.trim());
    assert!(!failures(&(annotated.clone() + &environment)).contains("mesh-mtls-lost"));
    let hocon = rendered(&["render", "tls", "--framework", "pekko", "--tls-dir", "/run/tls"], "");
    let lines: String = hocon.lines().map(|line| format!("    {line}\n")).collect();
    let map =
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  application.conf: |\n{lines}");
    let mounts =
        "        volumeMounts: [{name: c, mountPath: /conf}]\n      volumes: [{name: c, configMap: {name: c}}]\n";
    assert!(!failures(&(annotated + mounts + &map)).contains("mesh-mtls-lost"));
}

#[test]
fn what_cannot_be_rendered_is_refused_with_its_reason() {
    let refused = |args: &[&str], input: &str| {
        let output = bypassctl(args, input);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}: half-done");
        String::from_utf8(output.stderr).unwrap()
    };
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web}]}\n";
    assert!(refused(&["render", "rbac"], web).contains("no workload here looks like nodes"));
    assert!(refused(&["render", "rbac"], "a: [").contains("cannot be read"));
    assert!(refused(&["render", "annotations"], web).contains("--mesh"));
    assert!(refused(&["render", "network-policy", "-n", "../x"], web).contains("is no namespace"));
    let nodes = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: a}}\n\
        spec: {containers: [{name: a, ports: [{containerPort: 2552}]}]}\n";
    let twice = refused(&["render", "network-policy"], &format!("{nodes}---\n{nodes}"));
    assert!(twice.contains("Pod/default/a is there twice"), "{twice}");
    assert!(refused(&["render", "rbac", "/does/not/exist"], "").contains("cannot read manifests from /does/not/exist"));
    for dir in ["tls", "/tls\n-Dx=y", "/a b", "/\"x"] {
        assert!(refused(&["render", "tls", "--framework", "akka", "--tls-dir", dir], "").contains("no absolute path"));
    }
}
