//! `bypassctl cni install` on directories that stand for a node's, with an API server that is a fake.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bypassctl::tls::issue::DevelopmentCa;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cni::{Node, record, with_sidecar};
use crate::support::pod::Pod;

const DEADLINE: Duration = Duration::from_secs(20);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The directories of a container runtime, and a service account's.
struct Host<'a> {
    node: &'a Node,
}

impl<'a> Host<'a> {
    fn new(node: &'a Node) -> Self {
        let host = Self { node };
        for dir in [host.bin(), host.conf(), host.account(), host.netns()] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(host.account().join("ca.crt"), DevelopmentCa::new("x").unwrap().certificate_pem()).unwrap();
        fs::write(host.account().join("token"), "first\n").unwrap();
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.node.dir.path().join(name)
    }

    fn bin(&self) -> PathBuf {
        self.at("bin")
    }

    fn conf(&self) -> PathBuf {
        self.at("conf")
    }

    fn account(&self) -> PathBuf {
        self.at("account")
    }

    fn netns(&self) -> PathBuf {
        self.at("netns")
    }

    fn list(&self) -> PathBuf {
        self.conf().join("10-pods.conflist")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.conf().join("bypassctl-cni.kubeconfig")
    }

    /// The node's own network is installed.
    fn write_list(&self) -> Value {
        let list = json!({"cniVersion": "0.3.1", "name": "pods", "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap", "capabilities": {"portMappings": true}}]});
        fs::write(self.list(), list.to_string()).unwrap();
        list
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
        command.env_clear().args(["--log-format=json", "cni"]).args(args);
        command.arg(format!("--cni-bin-dir={}", self.bin().display()));
        command.arg(format!("--cni-conf-dir={}", self.conf().display()));
        command
    }

    /// Exit code, and what it says.
    fn ask(&self, command: &str) -> (i32, String) {
        let output = self.command(&[command]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn install(&self, more: &[&str]) -> Installer {
        let mut command = self.command(&["install"]);
        command.arg(format!("--api-server={}", self.node.server));
        command.arg(format!("--service-account-dir={}", self.account().display()));
        command.arg(format!("--netns-dir={}", self.netns().display())).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Installer { child, log }
    }

    fn types(&self) -> Vec<String> {
        let Ok(list) = serde_json::from_str::<Value>(&fs::read_to_string(self.list()).unwrap()) else {
            return Vec::new();
        };
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    fn is_installed(&self) -> bool {
        self.types().last().is_some_and(|kind| kind == "bypassctl-cni")
    }
}

struct Installer {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Installer {
    fn says(&self, parts: &[&str]) -> bool {
        let log = self.log.lock().unwrap();
        log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    fn wait_for(&self, parts: &[&str]) {
        let end = Instant::now() + DEADLINE;
        while !self.says(parts) {
            assert!(Instant::now() < end, "{parts:?} is not in: {}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends in order.
    fn end(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log.lock().unwrap());
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// It is installed, is kept installed whatever others do to it, and goes without a trace but the executable.
#[test]
fn it_is_kept_installed_and_goes_in_order() {
    let node = Node::new();
    let host = Host::new(&node);
    let original = host.write_list();
    fs::set_permissions(host.list(), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(host.ask("status").0, 1);
    let installer = host.install(&["--preset=pekko"]);
    eventually("it is installed", || host.is_installed());
    assert_eq!(host.types(), ["bridge", "portmap", "bypassctl-cni"]);
    let plugin = host.bin().join("bypassctl-cni");
    assert_eq!(fs::read(&plugin).unwrap(), fs::read(env!("CARGO_BIN_EXE_bypassctl")).unwrap());
    assert_eq!((mode(&plugin), mode(&host.kubeconfig()), mode(&host.list())), (0o755, 0o600, 0o640));
    let list: Value = serde_json::from_str(&fs::read_to_string(host.list()).unwrap()).unwrap();
    let settings = &list["plugins"][2]["bypassctl"];
    assert_eq!((&settings["preset"], &settings["exclude_namespaces"]), (&json!("pekko"), &json!(["kube-system"])));
    assert_eq!(host.ask("status").0, 0);
    let kubeconfig = || fs::read_to_string(host.kubeconfig()).unwrap_or_default();
    assert!(kubeconfig().contains("\"first\"") && !installer.says(&["first"]));

    // Its network's own installer writes the list anew, somebody cleans up, the token is replaced.
    host.write_list();
    eventually("the plugin is in the list again", || host.is_installed());
    installer.wait_for(&["somebody has rewritten"]);
    fs::remove_file(&plugin).unwrap();
    fs::write(host.account().join("token"), "second").unwrap();
    eventually("the executable is there again", || plugin.exists());
    eventually("the token is the new one", || kubeconfig().contains("\"second\""));
    let twice = fs::read_to_string(host.list()).unwrap().replace("\"bridge\"", "\"bypassctl-cni\"");
    fs::write(host.list(), twice).unwrap();
    // And behind whoever makes the network.
    eventually("one of two stays", || host.types() == ["portmap", "bypassctl-cni"]);
    host.write_list();
    eventually("the plugin is in the list again", || host.is_installed());

    installer.end();
    let list: Value = serde_json::from_str(&fs::read_to_string(host.list()).unwrap()).unwrap();
    assert_eq!(list, original);
    assert!(!host.kubeconfig().exists() && plugin.exists());
    assert_eq!(host.ask("uninstall").0, 0);
    let left = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!((left(host.bin()).len(), left(host.conf())), (0, vec!["10-pods.conflist".into()]));
    assert!(host.ask("uninstall").1.contains("nothing of ours"));
}

/// Where it stands first, no pod can start: it goes behind whoever makes the network.
#[test]
fn it_does_not_stay_first_in_the_list() {
    let node = Node::new();
    let host = Host::new(&node);
    host.write_list();
    let installer = host.install(&[]);
    eventually("it is installed", || host.is_installed());
    installer.end();
    let ours = json!({"type": "bypassctl-cni", "bypassctl": {}});
    let list =
        json!({"cniVersion": "0.3.1", "name": "pods", "plugins": [ours, {"type": "bridge"}, {"type": "portmap"}]});
    fs::write(host.list(), list.to_string()).unwrap();
    fs::write(host.kubeconfig(), "{}").unwrap();
    let (code, said) = host.ask("status");
    assert!(code == 1 && said.contains("stands first"), "{said}");
    let installer = host.install(&[]);
    eventually("it is behind the first", || host.types() == ["bridge", "bypassctl-cni", "portmap"]);
    assert_eq!(host.ask("status").0, 0);
    installer.end();
}

/// What others leave in the runtime's directory keeps the plugin neither out of the list nor in it.
#[test]
fn names_that_are_no_files_are_no_obstacle() {
    let node = Node::new();
    let host = Host::new(&node);
    host.write_list();
    for name in ["00-backup.conf", "99-backup.conf"] {
        fs::create_dir(host.conf().join(name)).unwrap();
    }
    for name in ["05-y.conf", "99-y.conflist"] {
        symlink("/no/such", host.conf().join(name)).unwrap();
    }
    let installer = host.install(&[]);
    eventually("it is installed", || host.is_installed());
    let copy = host.conf().join("20-copy.conflist");
    fs::copy(host.list(), &copy).unwrap();
    // Larger than any list: what cannot be read is said, and keeps nothing else.
    let large = host.conf().join("15-large.conflist");
    fs::write(&large, " ".repeat((1 << 20) + 1)).unwrap();
    drop(installer);
    let output = host.command(&["uninstall"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(5) && said.contains("15-large.conflist: it is larger than 1 MiB"), "{said}");
    assert!(!fs::read_to_string(host.list()).unwrap().contains("bypassctl-cni"));
    assert!(!fs::read_to_string(&copy).unwrap().contains("bypassctl-cni"));
    assert!(host.kubeconfig().exists() && host.bin().join("bypassctl-cni").exists());
    fs::remove_file(large).unwrap();
    assert_eq!(host.ask("uninstall").0, 0);
    assert!(!host.kubeconfig().exists() && !host.bin().join("bypassctl-cni").exists());
}

/// A list that is a link stays one, the kubeconfig's path holds from wherever the plugin is started, and what a killed writer
/// left goes.
#[test]
fn links_relative_directories_and_half_written_files() {
    let node = Node::new();
    let host = Host::new(&node);
    host.write_list();
    let target = host.at("elsewhere.conflist");
    fs::rename(host.list(), &target).unwrap();
    symlink(&target, host.list()).unwrap();
    let half = [
        host.conf().join(".bypassctl-cni.kubeconfig.bypassctl-next"),
        host.bin().join(".bypassctl-cni.1.bypassctl-next"),
    ];
    for path in &half {
        fs::write(path, "token").unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    command.env_clear().current_dir(node.dir.path()).args([
        "cni",
        "install",
        "--cni-conf-dir=conf",
        "--cni-bin-dir=bin",
    ]);
    command.arg(format!("--api-server={}", node.server)).arg("--service-account-dir=account");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let installer = Installer { child, log: Arc::default() };
    eventually("it is installed", || host.is_installed());
    let list: Value = serde_json::from_str(&fs::read_to_string(&target).unwrap()).unwrap();
    assert_eq!(list["plugins"][2]["bypassctl"]["kubeconfig"], host.kubeconfig().to_str().unwrap());
    assert!(host.list().is_symlink());
    installer.end();
    assert!(host.list().is_symlink() && !fs::read_to_string(&target).unwrap().contains("bypassctl-cni"));
    assert!(half.iter().all(|path| !path.exists()));
    // In a list of a name that runtimes do not read of themselves, too.
    let odd = host.conf().join("x.conflist.cni");
    fs::rename(&target, &odd).unwrap();
    fs::remove_file(host.list()).unwrap();
    let installer = host.install(&["--cni-conf-name=x.conflist.cni"]);
    let is_named = || fs::read_to_string(&odd).unwrap().contains("bypassctl-cni");
    eventually("it is installed", is_named);
    drop(installer);
    let mut uninstall = host.command(&["uninstall", "--cni-conf-name=x.conflist.cni"]);
    assert!(uninstall.stdout(Stdio::null()).status().unwrap().success() && !is_named());
}

/// Two at a time, as in an update that overlaps: neither takes the other's half-written file.
#[test]
fn two_installers_do_not_disturb_each_other() {
    let node = Node::new();
    let host = Host::new(&node);
    host.write_list();
    // Names that another may hold at any moment.
    for dir in [host.bin().join(".bypassctl-cni"), host.conf().join(".10-pods.conflist")] {
        fs::create_dir(format!("{}.bypassctl-next", dir.display())).unwrap();
    }
    let both = [host.install(&[]), host.install(&[])];
    eventually("it is installed", || host.is_installed());
    for round in 0..3 {
        fs::write(host.account().join("token"), format!("token-{round}")).unwrap();
        host.write_list();
        eventually("it is in the list again", || host.is_installed());
    }
    for installer in &both {
        assert!(!installer.says(&["No such file"]), "{}", installer.log.lock().unwrap());
    }
    let [one, other] = both;
    one.end();
    other.end();
}

/// A neighbour with NET_ADMIN gives itself the address of a pod: nobody is evicted for it, and no rules are made in its
/// namespace.
#[test]
fn an_address_in_two_namespaces_proves_nothing() {
    for (repair, is_seen) in [("rules", true), ("evict", true), ("rules", false), ("evict", false)] {
        let node = Node::new();
        let host = Host::new(&node);
        host.write_list();
        let (pod, peer) = Pod::pair();
        peer.sh("ip address add 10.77.0.11/32 dev lo");
        // By two names, it is one namespace all the same.
        for (name, namespace) in [("cni-1", &pod), ("cni-2", &peer), ("cni-3", &pod)] {
            // Where the pod's own is not to be seen, the neighbour's has both pods' addresses.
            if is_seen || name == "cni-2" {
                symlink(namespace.netns_path(), host.netns().join(name)).unwrap();
            }
        }
        let mut neighbour = record(json!({}), json!({"containers": [{"name": "app"}]}));
        neighbour["metadata"]["name"] = "evil-0".into();
        neighbour["metadata"]["uid"] = "u-2".into();
        neighbour["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.77.0.12"}]});
        node.records.lock().unwrap().insert("evil-0".to_owned(), Some(neighbour));
        let mut victim = with_sidecar(&[]);
        victim["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.77.0.11"}]});
        node.tell(Some(victim));
        let installer = host.install(&["--node-name=node1", &format!("--repair-pods={repair}")]);
        installer.wait_for(&["shop/cart-0", "in network namespaces of others too"]);
        assert!(!node.asked.lock().unwrap().iter().any(|asked| asked.contains("/eviction")));
        assert_eq!((pod.nft_ruleset(), peer.nft_ruleset()), (String::new(), String::new()));
        installer.end();
    }
}

/// A plugin that could not ask for pods would keep every pod of the node from starting: before it can, it is in no list. A
/// configuration that it cannot go into is said, and waited for.
#[test]
fn it_waits_for_what_it_needs() {
    let node = Node::new();
    let host = Host::new(&node);
    node.tell(None);
    let installer = host.install(&[]);
    installer.wait_for(&["the plugin may not get pods", "Forbidden"]);
    node.tell(Some(with_sidecar(&[])));
    installer.wait_for(&["there is no network configuration in"]);
    fs::write(host.list(), "{\"plugins\": [").unwrap();
    installer.wait_for(&["10-pods.conflist", "it is no JSON"]);
    fs::write(host.list(), "{\"cniVersion\": \"1.0.0\", \"type\": \"bridge\"}").unwrap();
    installer.wait_for(&["10-pods.conflist", "a single plugin"]);
    fs::remove_file(host.account().join("token")).unwrap();
    installer.wait_for(&["account/token", "No such file"]);
    fs::write(host.account().join("token"), "third").unwrap();
    host.write_list();
    eventually("it is installed", || host.is_installed());
    installer.wait_for(&["the plugin is installed and up to date"]);
    installer.end();
}

/// On a node whose directories cannot be written to it says so, names nothing in the list, and goes on trying.
#[test]
fn directories_that_cannot_be_written_to_are_said() {
    let node = Node::new();
    let host = Host::new(&node);
    let original = host.write_list();
    let (bin, list) = (host.bin(), host.list());
    let script = format!(
        "mount --make-rprivate / && mount --bind {0} {0} && mount -o remount,ro,bind {0} && exec \"$0\" \"$@\"",
        bin.display()
    );
    let install = host.command(&["install"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(install.get_program()).args(install.get_args()).env_clear();
    command.arg(format!("--api-server={}", node.server)).arg("--service-account-dir").arg(host.account());
    let mut child = command.env("PATH", "/usr/bin:/bin").stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(child.try_wait().unwrap().is_none(), "it has ended");
    child.kill().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let _ = child.wait();
    assert!(said.contains("writing") && said.contains("bin/bypassctl-cni: Read-only file system"), "{said}");
    assert_eq!(said.matches("not up to date").count(), 1, "told once: {said}");
    assert_eq!(said.matches("Read-only").count(), 1, "{said}");
    assert_eq!(serde_json::from_str::<Value>(&fs::read_to_string(list).unwrap()).unwrap(), original);
}

/// Whoever reads the list, at whatever moment, reads a whole one.
#[test]
fn a_reader_never_sees_half_a_list() {
    let node = Node::new();
    let host = Host::new(&node);
    host.write_list();
    let installer = host.install(&[]);
    eventually("it is installed", || host.is_installed());
    let next = host.conf().join(".next");
    for _ in 0..3 {
        let whole = fs::read_to_string(host.list()).unwrap().replace("bypassctl-cni", "other");
        fs::write(&next, whole).unwrap();
        fs::rename(&next, host.list()).unwrap();
        eventually("it is in the list again", || {
            let text = fs::read_to_string(host.list()).unwrap();
            serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            host.is_installed()
        });
    }
    installer.end();
}

/// Pods that started before the plugin was there are named, and get their rules or are evicted if that is wanted; pods that
/// have theirs, and pods of others, are left alone.
#[test]
fn pods_from_before_are_reported_repaired_or_evicted() {
    for (repair, part) in [("report", "started before"), ("rules", "its rules are made"), ("evict", "it is evicted")] {
        let node = Node::new();
        let host = Host::new(&node);
        host.write_list();
        let (pod, peer) = Pod::pair();
        symlink(pod.netns_path(), host.netns().join("cni-1")).unwrap();
        symlink(peer.netns_path(), host.netns().join("cni-2")).unwrap();
        fs::write(host.netns().join("cni-3"), "nothing").unwrap();
        let running = |mut record: Value, name: &str, address: &str| {
            record["metadata"]["name"] = name.into();
            record["status"] = json!({"phase": "Running", "podIPs": [{"ip": address}]});
            node.records.lock().unwrap().insert(name.to_owned(), Some(record));
        };
        running(with_sidecar(&["--preset=pekko"]), "cart-0", "10.77.0.11");
        running(record(json!({}), json!({"containers": [{"name": "app"}]})), "other-0", "10.77.0.12");
        running(with_sidecar(&[]), "elsewhere-0", "10.77.0.99");
        let installer = host.install(&["--node-name=node1", &format!("--repair-pods={repair}")]);
        installer.wait_for(&["shop/cart-0", part]);
        let evictions = node.asked.lock().unwrap().iter().filter(|asked| asked.contains("/eviction")).count();
        assert_eq!(
            (evictions, pod.nft_ruleset().contains("17355")),
            (usize::from(repair == "evict"), repair == "rules")
        );
        assert_eq!(peer.nft_ruleset(), "");
        assert!(!installer.says(&["other-0"]) && !installer.says(&["elsewhere-0"]));
        installer.end();
    }
}
