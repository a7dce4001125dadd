//! Two network namespaces and a veth pair between them: a pod, and the peer that it talks to.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Output, Stdio};

use bypassctl::core::ruleset::Family;
use bypassctl::sandbox::netns::Netns;

/// A network namespace with `lo` up and, once linked, `eth0` with an address of each family.
#[derive(Debug)]
pub(crate) struct Pod {
    netns: Netns,
    host: u8,
    families: Vec<Family>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Pod {
    /// A namespace with nothing but `lo`, which is up.
    pub(crate) fn alone() -> Self {
        let netns = Netns::new().unwrap_or_else(|error| {
            panic!("a network namespace cannot be made ({error}): this test needs root, as scripts/test gives it")
        });
        let pod = Self { netns, host: 0, families: Vec::new() };
        pod.ip("link set lo up");
        pod
    }

    /// A pod and its peer, each with an address of each family on `eth0` and a default route by way of the other.
    pub(crate) fn pair() -> (Self, Self) {
        Self::linked(&Family::BOTH)
    }

    /// The same, with addresses of these families alone.
    pub(crate) fn linked(families: &[Family]) -> (Self, Self) {
        let end = |host| Self { host, families: families.to_vec(), ..Self::alone() };
        let (pod, peer) = (end(11), end(12));
        let peer_ns = format!("/proc/{}/fd/{}", std::process::id(), peer.netns.file().as_raw_fd());
        pod.ip(&format!("link add eth0 type veth peer name eth0 netns {peer_ns}"));
        for (own, other) in [(&pod, &peer), (&peer, &pod)] {
            let mut script = String::new();
            for family in families {
                let (length, nodad) = if *family == Family::V4 { (24, "") } else { (64, "nodad") };
                script += &format!("address add {}/{length} dev eth0 {nodad}\n", own.address(*family));
            }
            script += "link set eth0 up\n";
            for family in families {
                script += &format!("route add default via {}\n", other.address(*family));
            }
            own.ip(&script);
        }
        (pod, peer)
    }

    /// Its network namespace as a file, as a container runtime names it.
    pub(crate) fn netns_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.file().as_raw_fd())
    }

    /// The families that `eth0` has an address of.
    pub(crate) fn families(&self) -> &[Family] {
        &self.families
    }

    /// This end's address on `eth0`.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        let text = if family == Family::V4 { format!("10.77.0.{}", self.host) } else { format!("fd77::{}", self.host) };
        text.parse().expect("an address")
    }

    /// This end's address on `eth0`, with a port.
    pub(crate) fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Runs `work` on a thread in here.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.netns.run(work).expect("entering a namespace that this test made")
    }

    /// Runs a command in here to its end, `input` on its standard input.
    pub(crate) fn finish(&self, mut command: Command, input: &str) -> Finished {
        let input = input.to_owned();
        self.run(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap_or_else(|error| {
                let name = command.get_program().to_string_lossy();
                panic!("{name} does not start ({error}): scripts/test installs what tests need")
            });
            let mut stdin = child.stdin.take().expect("a piped standard input");
            // A command that does not read closes the pipe; its exit code says what matters.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().expect("waiting for a child").into()
        })
    }

    /// Runs a command line, split at white space, that must succeed; returns its standard output.
    pub(crate) fn sh(&self, line: &str) -> String {
        self.feed(line, "")
    }

    /// The same, with `input` on its standard input.
    pub(crate) fn feed(&self, line: &str, input: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let finished = self.finish(command, input);
        assert_eq!(finished.code, 0, "{line}: {finished}\n--- stdin\n{input}");
        finished.stdout
    }

    /// The ruleset of nf_tables without counters, as `nft` prints it.
    pub(crate) fn nft_ruleset(&self) -> String {
        self.sh("nft --stateless list ruleset")
    }

    /// The tables that legacy iptables has in here.
    pub(crate) fn legacy_tables(&self) -> String {
        self.sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names")
    }

    fn ip(&self, script: &str) {
        self.feed("ip -batch -", script);
    }
}
