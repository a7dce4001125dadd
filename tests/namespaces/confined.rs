//! What a container or a node withholds: system calls, files that can be written, root, nf_tables.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use bypassctl::core::ruleset::Family;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::support::backend::{Backend, rules};
use crate::support::init::{bypassctl, must_init};
use crate::support::pod::{Finished, Pod};
use crate::support::probe::{Answer, call};
use crate::support::roles::{APP, MANAGEMENT, REMOTING, agent, peer};

/// What the default profile of container runtimes refuses without CAP_SYS_ADMIN and the like (moby profiles/seccomp,
/// containerd contrib/seccomp: RuntimeDefault), as far as this machine has it.
const REFUSED: [i64; 41] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mbind,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

fn filter(refused: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> BpfProgram {
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a machine that seccomp knows");
    let filter = SeccompFilter::new(refused, SeccompAction::Allow, action, arch).expect("rules that fit");
    filter.try_into().expect("a program that fits")
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).expect("one of six arguments")
}

/// RuntimeDefault: no system call of the list, no new namespace by clone; clone3 is said not to exist, as its flags cannot be
/// looked at.
fn runtime_default() -> Vec<BpfProgram> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET;
    let flags = namespaces.iter().map(|flag| u64::from(flag.bits().cast_unsigned()));
    let clones = flags.map(|flag| SeccompRule::new(vec![when(0, SeccompCmpOp::MaskedEq(flag), flag)]));
    let clones = clones.collect::<Result<Vec<_>, _>>().expect("a condition each");
    let mut refused: BTreeMap<_, _> = REFUSED.into_iter().map(|number| (number, Vec::new())).collect();
    refused.insert(libc::SYS_clone, clones);
    vec![filter(refused, libc::EPERM), filter([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)]
}

/// A kernel without nf_tables, and without the rest of nfnetlink: such sockets cannot be had (net/netlink/af_netlink.c,
/// `netlink_create`).
pub(crate) fn no_nfnetlink() -> Vec<BpfProgram> {
    let family = u64::from(libc::AF_NETLINK.cast_unsigned());
    let protocol = u64::from(libc::NETLINK_NETFILTER.cast_unsigned());
    let rule = SeccompRule::new(vec![when(0, SeccompCmpOp::Eq, family), when(2, SeccompCmpOp::Eq, protocol)]);
    vec![filter([(libc::SYS_socket, vec![rule.expect("two conditions")])].into(), libc::EPROTONOSUPPORT)]
}

/// Puts the calling thread, and what it starts, under these filters.
pub(crate) fn apply_all(filters: &[BpfProgram]) {
    for filter in filters {
        apply_filter(filter).expect("a kernel with seccomp");
    }
}

/// Runs the command on a root file system that nothing can be written to, and without these system calls; that also means
/// `no_new_privs`, which `allowPrivilegeEscalation: false` sets.
fn confined(pod: &Pod, filters: Vec<BpfProgram>, mut command: Command) -> Finished {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    pod.run(move || {
        let none: Option<&str> = None;
        let bound = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let confine = || -> nix::Result<()> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("none"), "/run", Some("tmpfs"), MsFlags::MS_RDONLY, none)?;
            mount(Some("/"), "/", none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            mount(none, "/", none, bound, none)
        };
        confine().expect("a mount namespace: this test needs root, as scripts/test gives it");
        apply_all(&filters);
        command.output().expect("a program of this machine").into()
    })
}

fn through(tool: &str, options: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.env_clear().args(options).args(args);
    command
}

/// Each backend, as the user and with the capabilities that docs/backends.md names, works under the seccomp profile
/// RuntimeDefault and on a read-only root file system, its proof included.
#[test]
fn each_backend_works_under_the_runtimes_default_profile() {
    let binary = bypassctl(&[]).get_program().to_str().expect("a path in UTF-8").to_owned();
    let ambient = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+net_admin"];
    let ambient = [&ambient[..], &["--inh-caps=-all,+net_admin", "--ambient-caps=+net_admin", &binary]].concat();
    let root = ["--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all,+net_admin,+net_raw", &binary];
    for (backend, options) in
        [(Backend::Nft, &ambient[..]), (Backend::IptablesNft, &ambient), (Backend::IptablesLegacy, &root)]
    {
        let (pod, _peer) = Pod::pair();
        let finished =
            confined(&pod, runtime_default(), through("setpriv", options, &["init", "--backend", backend.name()]));
        assert_eq!(finished.code, 0, "{backend}: {finished}");
        assert_eq!(finished.stdout.matches("proven live").count(), 8, "{backend}: {finished}");
        let finished = confined(&pod, runtime_default(), through("setpriv", options, &["init", "--cleanup"]));
        assert_eq!(finished.code, 0, "{backend}: {finished}");
        assert_eq!(rules(&pod), "", "{backend}");
    }
    // The profile is in force: what it refuses is refused.
    let refused = confined(&Pod::alone(), runtime_default(), through("unshare", &["--net", "true"], &[]));
    assert_ne!(refused.code, 0, "{refused}");
}

/// By a file capability, as the image's binary has it, a user that is not root needs nothing else; without one the same
/// start is refused, exit code 3. A runtime starts it with the capability permitted, which is not yet effective.
#[test]
fn a_file_capability_is_enough_for_a_user_that_is_not_root() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its own folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let start = |pod: &Pod, binary: &str| {
        let shell = format!("--shell={binary}");
        let user = ["--keep=1", "--gid=65534", "--uid=65534", "--caps=cap_net_admin+p", "--no-new-privs", &shell, "--"];
        confined(pod, runtime_default(), through("capsh", &user, &["init", "--backend", "nft"]))
    };
    for name in ["with", "without"] {
        let copied = Command::new("cp").arg(bypassctl(&[]).get_program()).arg(path(name)).status();
        assert!(copied.expect("cp").success() && Path::new(&path(name)).exists());
    }
    let set = Command::new("setcap").arg("cap_net_admin+ep").arg(path("with")).status();
    assert!(set.expect("scripts/test installs setcap").success());
    let (pod, _peer) = Pod::pair();
    let refused = start(&pod, &path("without"));
    assert_eq!(refused.code, 3, "{refused}");
    let finished = start(&pod, &path("with"));
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(finished.stdout.matches("proven live").count(), 8, "{finished}");
}

/// On a kernel without nf_tables `auto` says why it passes over what needs it, and takes legacy iptables: the rules are
/// proven, hold, and go again.
#[test]
fn without_nf_tables_auto_takes_legacy_iptables() {
    let (pod, other) = Pod::pair();
    let finished = confined(&pod, no_nfnetlink(), bypassctl(&["init"]));
    assert_eq!(finished.code, 0, "{finished}");
    assert!(finished.stdout.contains("backend iptables-legacy: the first that kernel and image have"), "{finished}");
    assert_eq!(finished.stdout.matches("proven live").count(), 8, "{finished}");
    for backend in ["nft", "iptables-nft"] {
        let why = format!("backend {backend} is out of the question: this kernel has no nf_tables");
        assert!(finished.stderr.contains(&why), "{finished}");
    }
    assert_eq!(pod.nft_ruleset(), "");
    let listeners = [agent(&pod), peer(&other, &[])];
    for family in Family::BOTH {
        for (port, who) in [(REMOTING, "agent-outbound"), (MANAGEMENT, "peer")] {
            let to = other.at(family, port);
            assert_eq!(call(&pod, APP, to), Answer::from(who, to));
        }
    }
    drop(listeners);
    let again = confined(&pod, no_nfnetlink(), bypassctl(&["init"]));
    assert_eq!(again.code, 0, "{again}");
    let explained = confined(&pod, no_nfnetlink(), bypassctl(&["explain", "--to", "10.77.0.12:2552"]));
    assert!(explained.code == 0 && explained.stdout.contains("BYPASSCTL_OUTPUT"), "{explained}");
    let finished = confined(&pod, no_nfnetlink(), bypassctl(&["init", "--cleanup"]));
    assert_eq!(finished.code, 0, "{finished}");
    assert_eq!(rules(&pod), "");
    let forced = confined(&pod, no_nfnetlink(), bypassctl(&["init", "--backend", "nft"]));
    assert_eq!(forced.code, 3, "{forced}");
    must_init(&pod, &[]);
}
