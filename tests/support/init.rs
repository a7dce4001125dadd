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
    let finished = init(pod, args);
    assert_eq!(finished.code, 0, "init {args:?}: {finished}");
}
