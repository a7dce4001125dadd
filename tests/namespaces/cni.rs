//! `bypassctl cni` as a container runtime calls it, with pods' network namespaces of its own and an API server that is a
//! fake, as it has to be away, to refuse and to be slow.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::matrix::{Ours, look};
use crate::support::mesh::{AMBIENT, ISTIO, ISTIO_TPROXY, MESHES};
use crate::support::pod::{Finished, Pod};
use crate::support::setup::{Order, Setup, check_all};

const OUR_TABLE: &str = "table inet bypassctl";

/// What the API server tells of pods of namespace shop, by name; `None` for a refusal.
type Records = Arc<Mutex<BTreeMap<String, Option<Value>>>>;

/// A node: an API server, a kubeconfig for it, and the plugin.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: String,
    pub(crate) records: Records,
    /// What it was asked, as in `GET /version`.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// Removed as soon as the API server is asked.
    vanishing: Arc<Mutex<Option<PathBuf>>>,
}

pub(crate) fn record(annotations: Value, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "cart-0", "namespace": "shop", "uid": "u-1", "annotations": annotations}})
}

pub(crate) fn with_sidecar(args: &[&str]) -> Value {
    let args = [&["proxy"], args].concat();
    let sidecar = json!({"name": "bypassctl", "image": "bypassctl:1", "restartPolicy": "Always", "args": args});
    record(json!({}), json!({"containers": [{"name": "app"}], "initContainers": [sidecar]}))
}

impl Node {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let node = Self {
            dir: tempfile::tempdir().unwrap(),
            server: server.clone(),
            records: Records::default(),
            asked: Arc::default(),
            vanishing: Arc::default(),
        };
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [],
            "clusters": [{"name": "a", "cluster": {"server": server}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": ""}}]});
        std::fs::write(node.kubeconfig(), config.to_string()).unwrap();
        let (records, vanishing, asked) =
            (Arc::clone(&node.records), Arc::clone(&node.vanishing), Arc::clone(&node.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (records, vanishing, asked) = (Arc::clone(&records), Arc::clone(&vanishing), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream, &records, &asked, &vanishing));
            }
        });
        node.tell(Some(with_sidecar(&[])));
        node
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// What the API server says of cart-0.
    pub(crate) fn tell(&self, record: Option<Value>) {
        self.records.lock().unwrap().insert("cart-0".to_owned(), record);
    }

    fn configuration(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut configuration = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bypassctl-cni",
            "bypassctl": {"kubeconfig": self.kubeconfig()},
            "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"address": "10.77.0.11/24"}]}});
        change(&mut configuration);
        configuration.to_string()
    }

    /// Calls the plugin by its own name, as runtimes do, with nothing in its environment but what the protocol has.
    fn call(&self, verb: &str, netns: &str, configuration: &str) -> Finished {
        self.call_with(verb, netns, configuration, &[])
    }

    /// The same, with these variables of the runtime's own.
    fn call_with(&self, verb: &str, netns: &str, configuration: &str, variables: &[(&str, &str)]) -> Finished {
        let plugin = self.dir.path().join("bypassctl-cni");
        if !plugin.exists() {
            symlink(env!("CARGO_BIN_EXE_bypassctl"), &plugin).unwrap();
        }
        let mut command = Command::new(plugin);
        command.env_clear().envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c-1"), ("CNI_IFNAME", "eth0")]);
        command.env("CNI_NETNS", netns).env("CNI_PATH", "/nowhere").envs(variables.iter().copied());
        command.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=u-1");
        run(command, configuration)
    }

    fn add(&self, pod: &Pod) -> Finished {
        self.call("ADD", &pod.netns_path(), &self.configuration(|_| {}))
    }

    fn must_add(&self, pod: &Pod) {
        let finished = self.add(pod);
        assert_eq!(finished.code, 0, "{finished}");
    }
}

fn run(mut command: Command, input: &str) -> Finished {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

fn serve(
    stream: std::net::TcpStream,
    records: &Records,
    asked: &Mutex<Vec<String>>,
    vanishing: &Mutex<Option<PathBuf>>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut request, mut header, mut length) = (String::new(), String::new(), 0);
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            header.clear();
        }
        let _ = reader.by_ref().take(length).read_to_end(&mut Vec::new());
        asked.lock().unwrap().push(request.rsplit_once(' ').unwrap().0.to_owned());
        if let Some(path) = vanishing.lock().unwrap().take() {
            std::fs::remove_file(path).unwrap();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let refusal = |code: u16, reason: &str| {
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
                "message": format!("pods is {reason}")})
        };
        let name = target.strip_prefix("/api/v1/namespaces/shop/pods/").unwrap_or_default();
        let forbids = records.lock().unwrap().values().any(Option::is_none);
        let items: Vec<Value> = records.lock().unwrap().values().flatten().cloned().collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        let (status, body) = match (target, records.lock().unwrap().get(name)) {
            (other, _) if forbids && other != "/version" => ("403 Forbidden", refusal(403, "Forbidden")),
            (listed, _) if listed.starts_with("/api/v1/pods?") && listed.contains("spec.nodeName%3Dnode1") => {
                ("200 OK", list)
            }
            (evicted, _) if evicted.contains("/cart-0/eviction") => {
                ("201 Created", json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
            }
            ("/version", _) => (
                "200 OK",
                json!({"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "",
                    "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            ),
            (_, Some(Some(record))) => ("200 OK", record.clone()),
            (_, Some(None)) => ("403 Forbidden", refusal(403, "Forbidden")),
            (_, None) => ("404 Not Found", refusal(404, "NotFound")),
        };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if reader.get_mut().write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// An error as the protocol has it, with this code, saying this.
fn assert_fault(finished: &Finished, code: u64, part: &str) {
    assert_eq!(finished.code, 1, "{finished}");
    let fault: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished}"));
    assert_eq!(fault["code"], code, "{finished}");
    assert!(fault["cniVersion"].is_string() && fault["msg"].as_str().unwrap().contains(part), "{part:?}: {finished}");
}

/// The rules that the plugin makes before any container starts hold beside every mesh, whose own plugin may stand before
/// ours in the chain or behind it.
#[test]
fn rules_of_the_plugin_hold_beside_every_mesh_in_either_order() {
    let meshes = std::iter::once(None).chain(MESHES.map(Some));
    let setups: Vec<_> =
        meshes.flat_map(|mesh| [Order::OursFirst, Order::MeshFirst].map(|order| Setup { mesh, order })).collect();
    check_all(&setups, |setup, cells| {
        let node = Node::new();
        let (pod, other) = Pod::pair();
        if setup.order == Order::OursFirst {
            node.must_add(&pod);
        }
        if let Some(mesh) = setup.mesh {
            mesh.load(&pod);
        }
        if setup.order == Order::MeshFirst {
            node.must_add(&pod);
        }
        look(*setup, Ours::Capture, &pod, &other, cells);
    });
}

/// The plugin makes the same table as `init` would with what the sidecar is told, hands on what came before it in the
/// chain, and brings lo up where the runtime has not yet.
#[test]
fn add_makes_the_table_of_init_and_hands_on_the_result() {
    let node = Node::new();
    node.tell(Some(with_sidecar(&["--preset=pekko", "--inbound-port=4001"])));
    let (pod, _peer) = Pod::pair();
    pod.sh("ip link set lo down");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let configuration = node.configuration(|configuration| {
            configuration["cniVersion"] = version.into();
            configuration["prevResult"]["cniVersion"] = version.into();
        });
        let finished = node.call("ADD", &pod.netns_path(), &configuration);
        assert_eq!(finished.code, 0, "{finished}");
        let result: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!((&result["cniVersion"], &result["ips"][0]["address"]), (&json!(version), &json!("10.77.0.11/24")));
        assert_eq!(result["interfaces"][0]["name"], "eth0");
    }
    let (by_init, _other) = Pod::pair();
    crate::support::init::must_init(&by_init, &["--preset=pekko", "--inbound-port=4001"]);
    assert_eq!(pod.sh("nft --stateless list ruleset"), by_init.sh("nft --stateless list ruleset"));
    let finished = node.call("CHECK", &pod.netns_path(), &node.configuration(|_| {}));
    assert_eq!((finished.code, finished.stdout.as_str()), (0, ""), "{finished}");
    pod.sh("nft delete table inet bypassctl");
    assert_fault(&node.call("CHECK", &pod.netns_path(), &node.configuration(|_| {})), 102, "its rules are gone");
}

/// A sidecar takes a list that is repeated as a whole: a port that the rules leave out would go out in plaintext.
#[test]
fn every_port_of_a_repeated_list_is_in_the_rules() {
    let node = Node::new();
    node.tell(Some(with_sidecar(&["--remoting-port=2552", "--remoting-port=2553"])));
    let (pod, _peer) = Pod::pair();
    node.must_add(&pod);
    let (by_init, _other) = Pod::pair();
    crate::support::init::must_init(&by_init, &["--remoting-port=2552", "--remoting-port=2553"]);
    assert_eq!(pod.sh("nft --stateless list ruleset"), by_init.sh("nft --stateless list ruleset"));
}

/// What a sidecar reads from a ConfigMap is not in the pod's record: the annotations say it.
#[test]
fn ports_that_are_not_to_be_seen_are_those_of_the_annotations() {
    let node = Node::new();
    let mut hidden = with_sidecar(&[]);
    hidden["spec"]["initContainers"][0]["envFrom"] = json!([{"configMapRef": {"name": "ports"}}]);
    hidden["metadata"]["annotations"] = json!({"bypassctl.io/remoting-port": "17355"});
    node.tell(Some(hidden));
    let (pod, _peer) = Pod::pair();
    node.must_add(&pod);
    let rules = pod.nft_ruleset();
    assert!(rules.contains("17355") && !rules.contains("dport 2552"), "{rules}");
    node.tell(Some(with_sidecar(&["--remoting-port=$(RP)"])));
    let (other, _peer) = Pod::pair();
    assert_fault(&node.add(&other), 7, "--remoting-port of container bypassctl is not to be seen");
    assert_eq!(other.nft_ruleset(), "");
}

/// The runtime's environment is no configuration of the plugin's, and its proxy is not the plugin's way to the API server.
#[test]
fn the_environment_of_the_runtime_says_nothing_to_the_plugin() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    let nobody = "http://127.0.0.1:1";
    let variables = [
        ("BYPASSCTL_CONFIG", "/no/such"),
        ("BYPASSCTL_LOG_FORMAT", "xx"),
        ("BYPASSCTL_LOG_LEVEL", "]["),
        ("HTTP_PROXY", nobody),
        ("HTTPS_PROXY", nobody),
        ("http_proxy", nobody),
        ("https_proxy", nobody),
    ];
    let finished = node.call_with("ADD", &pod.netns_path(), &node.configuration(|_| {}), &variables);
    assert_eq!(finished.code, 0, "{finished}");
    assert!(pod.nft_ruleset().contains(OUR_TABLE), "{finished}");
}

/// Links and a table as a run leaves them that is killed in its proof.
fn leave_a_proof_behind(pod: &Pod) {
    pod.sh("ip link add bypassctl-near type veth peer name bypassctl-far");
    pod.sh("nft add table inet bypassctl-proof");
}

fn has_leftovers(pod: &Pod) -> bool {
    pod.sh("ip link show").contains("bypassctl-") || pod.nft_ruleset().contains("bypassctl-proof")
}

/// ADD may have been killed after it had made the rules and before it had proven them.
#[test]
fn rules_that_stand_are_proven_all_the_same() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    node.must_add(&pod);
    leave_a_proof_behind(&pod);
    assert!(has_leftovers(&pod));
    node.must_add(&pod);
    assert!(!has_leftovers(&pod));
    leave_a_proof_behind(&pod);
    let _ = node.call("DEL", &pod.netns_path(), &node.configuration(|_| {}));
    assert!(!has_leftovers(&pod));
    node.must_add(&pod);
    pod.sh("nft add table inet other");
    pod.sh("nft add chain inet other out { type filter hook output priority 0; }");
    pod.sh("nft add rule inet other out tcp dport { 2552, 15552 } drop");
    assert_fault(&node.add(&pod), 100, "not proven");
}

/// The plugin writes no file: a root that cannot be written to is nothing to it.
#[test]
fn a_read_only_root_is_no_obstacle() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    let script = "mount --make-rprivate / && mount -o remount,ro,bind / && ! touch /x 2>/dev/null && exec \"$0\" cni";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_bypassctl")]).env_clear();
    command.envs([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c-1"),
        ("CNI_IFNAME", "eth0"),
        ("PATH", "/usr/bin:/bin"),
    ]);
    command.env("CNI_NETNS", pod.netns_path()).env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0");
    let finished = run(command, &node.configuration(|_| {}));
    assert_eq!(finished.code, 0, "{finished}");
    assert!(pod.nft_ruleset().contains(OUR_TABLE), "{finished}");
}

/// Pods that have nothing to do with us stay as they are, and nobody is asked about those of excluded namespaces.
#[test]
fn other_pods_are_left_alone() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    let left = |configuration: &str| {
        let finished = node.call("ADD", &pod.netns_path(), configuration);
        assert_eq!(finished.code, 0, "{finished}");
        assert!(finished.stdout.contains("10.77.0.11/24"), "{finished}");
        assert_eq!(pod.nft_ruleset(), "", "{finished}");
    };
    node.tell(Some(record(json!({}), json!({"containers": [{"name": "app"}]}))));
    left(&node.configuration(|_| {}));
    node.tell(Some(record(json!({"bypassctl.io/rules": "none"}), with_sidecar(&[])["spec"].clone())));
    left(&node.configuration(|_| {}));
    node.records.lock().unwrap().clear();
    left(&node.configuration(|_| {}));
    node.tell(None);
    left(&node.configuration(|configuration| configuration["bypassctl"]["exclude_namespaces"] = json!(["shop"])));
}

/// A pod without a sidecar that asks for it goes straight past the mesh.
#[test]
fn a_pod_that_asks_to_bypass_goes_straight() {
    let setup = Setup { mesh: Some(ISTIO), order: Order::MeshFirst };
    check_all(&[setup], |setup, cells| {
        let node = Node::new();
        let spec = json!({"containers": [{"name": "app"}]});
        node.tell(Some(record(json!({"bypassctl.io/rules": "bypass"}), spec)));
        let (pod, other) = Pod::pair();
        ISTIO.load(&pod);
        node.must_add(&pod);
        look(*setup, Ours::Bypass, &pod, &other, cells);
    });
}

/// Whatever is wrong is told with the protocol's number, and no rules are left.
#[test]
fn what_is_wrong_has_the_protocols_code_and_leaves_no_rules() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    let netns = pod.netns_path();
    let good = node.configuration(|_| {});
    let with = |change: &dyn Fn(&mut Value)| node.call("ADD", &netns, &node.configuration(change));
    assert_fault(&node.call("ADD", &netns, "{\"cniVersion\""), 6, "no JSON");
    assert_fault(&with(&|it| it["cniVersion"] = "2.0.0".into()), 1, "\"2.0.0\" is not spoken");
    assert_fault(&with(&|it| it["bypassctl"]["kubeconfg"] = "x".into()), 7, "unknown field");
    assert_fault(&with(&|it| it["bypassctl"] = json!({})), 7, "names no kubeconfig");
    assert_fault(&with(&|it| drop(it.as_object_mut().unwrap().remove("prevResult"))), 7, "no prevResult");
    assert_fault(&with(&|it| it["bypassctl"]["backend"] = "ebpf".into()), 7, "backend \"ebpf\"");
    assert_fault(&with(&|it| it["bypassctl"]["kubeconfig"] = "/no/such".into()), 11, "/no/such cannot be used");
    assert_fault(&node.call("PLAY", &netns, &good), 4, "none of ADD");
    assert_fault(&node.call("ADD", "", &good), 4, "CNI_NETNS not set");
    assert_fault(&node.call("ADD", "/no/such/netns", &good), 5, "cannot be opened");
    assert_fault(&node.call("ADD", "/proc/self/status", &good), 4, "is no namespace");
    assert_fault(&node.call("ADD", "/proc/self/ns/net", &good), 4, "the node's own");
    node.tell(None);
    assert_fault(&node.add(&pod), 11, "Forbidden");
    node.tell(Some(with_sidecar(&["--remoting-port=x"])));
    assert_fault(&node.add(&pod), 7, "makes no sense: remoting-port");
    let mut other = with_sidecar(&[]);
    other["metadata"]["uid"] = "u-2".into();
    node.tell(Some(other));
    assert_fault(&node.add(&pod), 11, "another pod of this name");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [],
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": ""}}]});
    std::fs::write(node.kubeconfig(), config.to_string()).unwrap();
    assert_fault(&node.add(&pod), 11, "cannot be reached");
    assert_eq!(pod.nft_ruleset(), "");
}

/// Two of ours in one chain: the second finds what the first has made, and refuses what contradicts it.
#[test]
fn two_plugins_of_ours_in_one_chain_agree_or_say_so() {
    let node = Node::new();
    node.tell(Some(record(json!({"bypassctl.io/rules": "bypass"}), json!({"containers": [{"name": "app"}]}))));
    let (pod, _peer) = Pod::pair();
    node.must_add(&pod);
    let before = pod.nft_ruleset();
    node.must_add(&pod);
    assert_eq!(pod.nft_ruleset(), before);
    let second = node.configuration(|configuration| configuration["bypassctl"]["preset"] = "pekko".into());
    let finished = node.call("ADD", &pod.netns_path(), &second);
    assert_fault(&finished, 7, "has rules of ours already, and they are others");
    assert!(finished.stdout.contains("names this plugin twice"), "{finished}");
    assert_eq!(pod.nft_ruleset(), before);
}

/// A namespace that vanishes while the API server is asked: ADD fails, so that the runtime gives the pod up.
#[test]
fn a_namespace_that_vanishes_during_add_is_an_error() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    let link = node.dir.path().join("netns");
    symlink(pod.netns_path(), &link).unwrap();
    *node.vanishing.lock().unwrap() = Some(link.clone());
    let finished = node.call("ADD", link.to_str().unwrap(), &node.configuration(|_| {}));
    assert_fault(&finished, 5, "has vanished meanwhile");
}

/// DEL removes ours and nothing else, as often as it is called, for a pod never seen too, and without any API server.
#[test]
fn del_removes_what_is_ours_and_never_fails() {
    let node = Node::new();
    let (pod, _peer) = Pod::pair();
    for mesh in [ISTIO, ISTIO_TPROXY, AMBIENT] {
        let (pod, _peer) = Pod::pair();
        mesh.load(&pod);
        let before = pod.nft_ruleset();
        node.must_add(&pod);
        assert!(pod.nft_ruleset().contains(OUR_TABLE));
        let _ = node.call("DEL", &pod.netns_path(), &node.configuration(|_| {}));
        assert_eq!(pod.nft_ruleset(), before, "{}", mesh.name);
    }
    std::fs::remove_file(node.kubeconfig()).unwrap();
    let bare = node.configuration(|configuration| drop(configuration.as_object_mut().unwrap().remove("prevResult")));
    node.tell(Some(with_sidecar(&[])));
    for wrong in [
        r#"{"cniVersion": "1.0.0", "bypassctl": {"newkey": 1}}"#,
        r#"{"cniVersion": "1.0.0", "bypassctl": null}"#,
        r#"{"cniVersion": "9.9.9"}"#,
        "{}",
        "no JSON",
        "",
    ] {
        crate::support::init::must_init(&pod, &[]);
        for verb in ["DEL", "GC"] {
            let finished = node.call(verb, &pod.netns_path(), wrong);
            assert_eq!((finished.code, finished.stdout.as_str()), (0, ""), "{verb} {wrong:?}: {finished}");
        }
        assert_eq!(pod.nft_ruleset(), "", "{wrong:?}");
    }
    for netns in [pod.netns_path().as_str(), "/no/such/netns", "", "/proc/self/ns/net"] {
        let finished = node.call("DEL", netns, &bare);
        assert_eq!((finished.code, finished.stdout.as_str()), (0, ""), "{netns:?}: {finished}");
    }
}

/// What runtimes ask without any pod.
#[test]
fn version_status_and_gc_are_answered() {
    let node = Node::new();
    let finished = node.call("VERSION", "", r#"{"cniVersion": "1.0.0"}"#);
    let versions: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(versions["cniVersion"], "1.0.0");
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!(version)), "{finished}");
    }
    for verb in ["STATUS", "GC"] {
        let finished = node.call(verb, "", &node.configuration(|it| it["cniVersion"] = "1.1.0".into()));
        assert_eq!((finished.code, finished.stdout.as_str()), (0, ""), "{verb}: {finished}");
    }
    std::fs::remove_file(node.kubeconfig()).unwrap();
    assert_fault(&node.call("STATUS", "", &node.configuration(|_| {})), 50, "kubeconfig");
    let mut by_hand = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    by_hand.env_clear().arg("cni");
    let finished = run(by_hand, "");
    assert!(finished.code == 2 && finished.stderr.contains("bypassctl cni install"), "{finished}");
}
