//! `bypassctl init` in a pod.

use std::process::Command;

use super::pod::{Finished, Pod};

/// The real binary, with nothing in its environment, `PATH` neither: it must need no other program.
pub(crate) fn bypassctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bypassctl"));
    command.env_clear().args(args);
    command
}

/// Runs `bypassctl init` with these arguments in the pod.
pub(crate) fn init(pod: &Pod, args: &[&str]) -> Finished {
    pod.finish(bypassctl(&[&["init"], args].concat()), "")
}

/// Runs `bypassctl init` with these arguments in the pod; it must succeed.
pub(crate) fn must_init(pod: &Pod, args: &[&str]) {
    if std::env::var_os("TEMP_VIA_TEXT").is_some() {
        use bypassctl::core::{config::*, plan::*, ports::Preset, render};
        let plan = RedirectPlan {
            mode: if args.contains(&"bypass") { RedirectMode::Bypass } else { RedirectMode::Capture },
            cluster: ClusterPorts::new(Some(Preset::Akka), &[], &[]).unwrap(),
            agent: AgentPorts { outbound: 15552, inbound: 15553, admin: 15550 },
            agent_uid: 12552,
            mesh_uids: vec![1337],
            mesh_mark: 1337,
            side_doors: if args.contains(&"open") { SideDoors::Open } else { SideDoors::Closed },
        };
        pod.feed("nft -f -", &render::nft::render(&plan.ruleset(&Substitutes::default())));
        if args.contains(&"--cleanup") {
            pod.sh("nft delete table inet bypassctl");
        }
        return;
    }
    let finished = init(pod, args);
    assert_eq!(finished.code, 0, "init {args:?}: {finished}");
}
