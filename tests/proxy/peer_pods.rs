//! `--peer-address pod`: peers have to have the address of a pod of the service account that their certificate names. The API
//! server is a fake, as it has to be late, to refuse and to go away.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    App, Certificates, Sidecar, assert_echo, assert_no_byte, connect, eventually, executable, local, write_set,
};

fn pod(name: &str, service_account: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "resourceVersion": "2"},
        "spec": {"serviceAccountName": service_account, "containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
}

#[derive(Default)]
struct State {
    pods: Vec<Value>,
    watchers: Vec<Sender<String>>,
    forbids: bool,
}

/// As much of an API server as lists and watches the pods of namespace shop.
struct Api {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Api {
    fn start(pods: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Self { state: Arc::default(), port: listener.local_addr().unwrap().port() };
        api.state.lock().unwrap().pods = pods;
        let state = Arc::clone(&api.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        api
    }

    fn forbid(&self, forbids: bool) {
        let mut state = self.state.lock().unwrap();
        state.forbids = forbids;
        // Every watch ends.
        state.watchers.clear();
    }

    fn say(&self, kind: &str, pod: &Value) {
        let mut state = self.state.lock().unwrap();
        state.pods.retain(|known| known["metadata"]["name"] != pod["metadata"]["name"]);
        if kind != "DELETED" {
            state.pods.push(pod.clone());
        }
        let event = json!({"type": kind, "object": pod}).to_string() + "\n";
        state.watchers.retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// Once somebody watches, changes arrive.
    fn wait_for_watcher(&self) {
        eventually("somebody watches", || (!self.state.lock().unwrap().watchers.is_empty()).then_some(()));
    }

    /// A sidecar that asks it, with what is to be proved of peers.
    fn command(&self, certificates: &Certificates) -> Command {
        let config: PathBuf = certificates.path().join(format!("kubeconfig-{}", self.port));
        let cluster = json!({"server": format!("http://127.0.0.1:{}", self.port)});
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [],
            "clusters": [{"name": "a", "cluster": cluster}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "", "namespace": "shop"}}]});
        std::fs::write(&config, text.to_string()).unwrap();
        let mut command = Command::new(executable());
        command.stderr(Stdio::piped()).env("KUBECONFIG", config);
        command
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
            header.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (status, body) = if target.starts_with("/version") {
            let version = json!({"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
            ("200 OK", version)
        } else if state.lock().unwrap().forbids {
            let message = "pods is forbidden: User \"cart\" cannot list resource \"pods\"";
            let refusal = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": message});
            ("403 Forbidden", refusal)
        } else if target.contains("watch=true") {
            let (sender, events) = channel();
            state.lock().unwrap().watchers.push(sender);
            return stream_events(reader.into_inner(), &events);
        } else {
            assert!(target.starts_with("/api/v1/namespaces/shop/pods?"), "{target}");
            let items = state.lock().unwrap().pods.clone();
            let list =
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            ("200 OK", list)
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if reader.get_mut().write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn stream_events(mut stream: TcpStream, events: &Receiver<String>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut sent = stream.write_all(head.as_bytes());
    while let (Ok(()), Ok(event)) = (&sent, events.recv()) {
        sent = stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    }
    let _ = stream.write_all(b"0\r\n\r\n");
}

/// A sidecar that holds peers against the API's pods, and one that does not, both of shop/cart.
fn pair(certificates: &Certificates, api: &Api, app: &App) -> (Sidecar, Sidecar) {
    let options = ["--peer-address=pod"];
    let mut command = api.command(certificates);
    let dir = certificates.tls_dir("cart");
    let far = Sidecar::between_by(&mut command, &dir, local(1), app.address, &options);
    let near_dir = certificates.path().join("near");
    write_set(&near_dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
    let near = Sidecar::between(&near_dir, far.inbound, local(1), &[]);
    (near, far)
}

#[test]
fn who_dials_has_to_be_a_pod_of_its_service_account() {
    let (certificates, app) = (Certificates::new(), App::echo());
    let api = Api::start(vec![pod("cart-0", "cart", "127.0.0.1")]);
    let (near, far) = pair(&certificates, &api, &app);
    api.wait_for_watcher();
    assert_echo(&mut connect(near.outbound).unwrap(), "one of ours");
    let known = &far.status()["peer_pods"][0];
    assert_eq!((&known["namespace"], &known["known"], &known["pods"]), (&json!("shop"), &json!(true), &json!(1)));

    // Its address is another's now: a stolen certificate serves from there no more.
    api.say("DELETED", &pod("cart-0", "cart", "127.0.0.1"));
    api.say("ADDED", &pod("pay-0", "pay", "127.0.0.1"));
    is_refused_soon(near.outbound);
    far.log_line(&["\"reason\":\"denied\"", "127.0.0.1: it is pod shop/pay-0's, whose service account is pay"]);
    near.log_line(&["\"reason\":\"refused_by_peer\"", "AccessDenied"]);
    let refusal = &far.status()["refusals"][0];
    assert!(refusal["hint"].as_str().unwrap().contains("--peer-address"), "{refusal}");
    assert!(far.get("/metrics").1.contains("bypassctl_denied_total{direction=\"inbound\"} 1"));
}

/// What was said may not have arrived when the first connection does, which is let in then.
fn is_refused_soon(address: SocketAddr) {
    eventually("it is refused", || {
        let mut stream = connect(address).unwrap();
        // A record that may be late is waited for 5 s.
        stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => Some(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(()),
            Ok(_) => panic!("a byte came back"),
            Err(_) => None,
        }
    });
}

#[test]
fn who_is_dialled_has_to_be_a_pod_of_its_service_account() {
    let (certificates, app) = (Certificates::new(), App::echo());
    let api = Api::start(vec![pod("cart-0", "cart", "127.0.0.1")]);
    let far = Sidecar::between(&certificates.tls_dir("cart"), local(1), app.address, &[]);
    let near_dir = certificates.tls_dir("near");
    write_set(&near_dir, &certificates.leaf("cart"), certificates.ca.certificate_pem());
    let mut command = api.command(&certificates);
    let near = Sidecar::between_by(&mut command, &near_dir, far.inbound, local(1), &["--peer-address=pod"]);
    assert_echo(&mut connect(near.outbound).unwrap(), "one of ours");
    api.wait_for_watcher();
    api.say("DELETED", &pod("cart-0", "cart", "127.0.0.1"));
    is_refused_soon(near.outbound);
    near.log_line(&["\"reason\":\"denied\"", "127.0.0.1: no pod of namespace shop has it"]);
}

#[test]
fn a_pod_that_dials_before_its_record_has_arrived_is_waited_for() {
    let (certificates, app) = (Certificates::new(), App::echo());
    let api = Api::start(Vec::new());
    let (near, _far) = pair(&certificates, &api, &app);
    api.wait_for_watcher();
    let mut early = connect(near.outbound).unwrap();
    early.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(app.accepted(), 0);
    api.say("ADDED", &pod("cart-0", "cart", "127.0.0.1"));
    let mut back = [0; 5];
    std::io::Read::read_exact(&mut early, &mut back).unwrap();
    assert_eq!(&back, b"early");
}

#[test]
fn without_the_right_to_ask_nobody_is_let_in_and_what_was_known_stays() {
    let (certificates, app) = (Certificates::new(), App::echo());
    let api = Api::start(vec![pod("cart-0", "cart", "127.0.0.1")]);
    api.forbid(true);
    let (near, far) = pair(&certificates, &api, &app);
    let ready = || far.get("/ready");
    let unready = eventually("it says what it lacks", || Some(ready()).filter(|(_, text)| text.contains("forbidden")));
    assert!(unready.0 == 503 && unready.1.contains("the pods of namespace shop are not known"), "{unready:?}");
    assert_no_byte(&mut connect(near.outbound).unwrap());
    far.log_line(&["\"reason\":\"denied\"", "the pods of namespace shop are not known"]);

    api.forbid(false);
    eventually("it is ready", || Some(ready()).filter(|(status, _)| *status == 200));
    assert_echo(&mut connect(near.outbound).unwrap(), "known");
    api.wait_for_watcher();
    api.forbid(true);
    let doubtful = eventually("it says that it is out of date", || {
        Some(ready()).filter(|(_, text)| text.contains("those of a while ago"))
    });
    assert_eq!(doubtful.0, 200);
    assert_echo(&mut connect(near.outbound).unwrap(), "known still");
}
