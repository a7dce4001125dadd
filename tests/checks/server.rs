//! `check cluster` and an API server that does what a real one does not: it never ends, never answers, or hides half.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What it does with a path.
enum Reply {
    Json(Value),
    Forbidden,
    NotFound,
    /// A list whose text never ends.
    Endless,
    /// Nothing.
    Silence,
}

struct Server {
    dir: TempDir,
    port: u16,
}

impl Server {
    fn start(reply: impl Fn(&str) -> Reply + Send + Sync + Copy + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        // Both end with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, reply));
            }
        });
        let server = Self { dir: tempfile::tempdir().expect("a directory"), port };
        server.kubeconfig(&json!({}));
        server
    }

    /// With a user of these credentials.
    fn kubeconfig(&self, user: &Value) -> PathBuf {
        let path = self.dir.path().join("config");
        let cluster = json!({"server": format!("http://127.0.0.1:{}", self.port)});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "shop"}}],
            "users": [{"name": "test", "user": user}],
        });
        fs::write(&path, config.to_string()).expect("a file");
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
        let command = command.args(args).arg("--kubeconfig").arg(self.dir.path().join("config"));
        command.env_remove("BYPASSCTL_OUTPUT").output().expect("it runs")
    }

    /// Messages of `check cluster`, by code.
    fn messages(&self, code: &str, status: &str) -> Vec<String> {
        let output = self.run(&["check", "cluster", "-o", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        let checks = report["checks"].as_array().expect("checks").iter();
        let meant = checks.filter(|check| check["code"] == code && check["status"] == status);
        meant.map(|check| format!("{}: {}", check["object"], check["message"])).collect()
    }
}

fn said(output: &Output) -> String {
    format!(
        "{:?}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn answer(stream: TcpStream, reply: impl Fn(&str) -> Reply) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut request, mut length) = (String::new(), 0);
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let _ = reader.by_ref().take(length).read_to_end(&mut Vec::new());
        let target = request.split(' ').nth(1).unwrap_or_default();
        let version = json!({"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
        let reply = match (target.split('?').next().unwrap_or_default(), reply(target)) {
            (_, Reply::Silence) => Reply::Silence,
            ("/version", _) => Reply::Json(version),
            ("/apis/app.lightbend.com/v1alpha1", _) => Reply::NotFound,
            (_, reply) => reply,
        };
        let refused = |code: u16, reason: &str| {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
                "message": format!("x is {reason}: User \"jane\" cannot do it")})
        };
        let (status, body) = match reply {
            Reply::Json(body) => ("200 OK", body),
            Reply::Forbidden => ("403 Forbidden", refused(403, "Forbidden")),
            Reply::NotFound => ("404 Not Found", refused(404, "NotFound")),
            Reply::Silence => {
                // Until the other side has had enough.
                let _ = reader.read_to_end(&mut Vec::new());
                return;
            }
            Reply::Endless => {
                let stream = reader.get_mut();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                let mut sent = stream.write_all(head.as_bytes());
                while sent.is_ok() {
                    sent = stream.write_all(chunk.as_bytes());
                }
                return;
            }
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if reader.get_mut().write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn list(kind: &str, items: Value, more: &str) -> Reply {
    Reply::Json(json!({"kind": kind, "apiVersion": "v1", "metadata": {"continue": more}, "items": items}))
}

fn deployments() -> Reply {
    let container = json!({"name": "app", "ports": [{"name": "remoting", "containerPort": 2552},
        {"name": "management", "containerPort": 8558}]});
    list(
        "DeploymentList",
        json!([{"metadata": {"name": "cart", "namespace": "shop"}, "spec": {"replicas": 3,
            "selector": {"matchLabels": {"app": "cart"}},
            "template": {"metadata": {"labels": {"app": "cart"}}, "spec": {"containers": [container]}}}}]),
        "",
    )
}

fn is(target: &str, resource: &str) -> bool {
    target.split('?').next().is_some_and(|path| path.ends_with(&format!("/{resource}")))
}

#[test]
fn a_kind_that_may_be_listed_is_judged_though_others_may_not() {
    let server = Server::start(|target| if is(target, "deployments") { deployments() } else { Reply::Forbidden });
    let judged = server.messages("probe-readiness", "fail");
    assert_eq!(judged, ["\"Deployment/shop/cart\": \"container app has none\""]);
    let hidden = server.messages("cluster-readable", "skip").join("\n");
    for kind in ["statefulsets", "daemonsets", "jobs", "cronjobs", "pods", "roles"] {
        assert!(hidden.contains(&format!("cannot list {kind} in namespace shop: forbidden for jane")), "{hidden}");
    }
    assert!(!hidden.contains("deployments"), "{hidden}");
}

#[test]
fn what_nobody_may_see_is_not_called_healthy() {
    let server = Server::start(|_| Reply::Forbidden);
    let output = server.run(&["check", "cluster", "-o", "short"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("something-judged check: nothing at all was judged"), "{}", said(&output));
}

#[test]
fn an_answer_without_an_end_is_not_kept() {
    let server = Server::start(|target| if is(target, "pods") { Reply::Endless } else { Reply::Forbidden });
    let told = server.messages("cluster-readable", "skip").join("\n");
    assert!(
        told.contains("cannot list pods") && told.contains("answers more than 32 MiB, which is not read"),
        "{told}"
    );
}

#[test]
fn pages_without_an_end_are_not_turned() {
    let server =
        Server::start(|target| if is(target, "pods") { list("PodList", json!([]), "again") } else { Reply::Forbidden });
    let told = server.messages("cluster-readable", "skip").join("\n");
    assert!(told.contains("cannot list pods in namespace shop: the list has no end within 100 pages"), "{told}");
}

#[test]
fn objects_without_an_end_are_not_kept() {
    let server = Server::start(|target| {
        if is(target, "pods") { list("PodList", vec![json!({}); 10_001].into(), "") } else { Reply::Forbidden }
    });
    let told = server.messages("cluster-readable", "skip").join("\n");
    assert!(told.contains("cannot list pods") && told.contains("expected at most 10000 items"), "{told}");
}

#[test]
fn a_server_that_hangs_is_waited_for_as_long_as_asked() {
    let server = Server::start(|_| Reply::Silence);
    let output = server.run(&["check", "cluster", "--wait=1"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("within the 1 s of --wait"), "{}", said(&output));
    for wrong in ["--wait=0", "--wait=3601", "--wait=99999999999"] {
        assert_eq!(server.run(&["check", "cluster", wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_credential_plugin_that_hangs_is_not_waited_for_longer_either() {
    let server = Server::start(|_| Reply::Forbidden);
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", "sleep 1000; true"],
        "interactiveMode": "IfAvailable"});
    server.kubeconfig(&json!({"exec": exec}));
    // Its pipes are ours: this would wait for it, if it lived on.
    let output = server.run(&["check", "cluster", "--wait=1"]);
    assert!(output.status.code() == Some(5) && said(&output).contains("of --wait"), "{}", said(&output));
    let exec =
        json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "/no/such/plugin", "installHint": "get it"});
    server.kubeconfig(&json!({"exec": exec}));
    let output = server.run(&["check", "cluster"]);
    let told = said(&output);
    assert!(output.status.code() == Some(5) && told.contains("\"/no/such/plugin\" cannot be started"), "{told}");
    assert!(told.contains("get it"), "{told}");
}

#[test]
fn a_namespace_that_is_none_is_refused_before_anybody_is_asked() {
    let server = Server::start(|_| Reply::Silence);
    for command in [["check", "cluster"], ["check", "pre"]] {
        for name in ["%73hop", "shop/../default", "Shop", ""] {
            let output = server.run(&[&command[..], &["-n", name]].concat());
            assert_eq!(output.status.code(), Some(2), "{command:?} {name}: {}", said(&output));
            assert!(said(&output).contains("is no namespace"), "{command:?} {name}: {}", said(&output));
        }
    }
    assert_eq!(server.run(&["status", "-n", "%73hop"]).status.code(), Some(2));
}
