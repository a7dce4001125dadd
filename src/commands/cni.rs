//! `bypassctl cni`: the CNI plugin, and what installs it on a node.

mod install;
mod plugin;

use crate::cli::{CniArgs, CniCommand, CniHostArgs};
use crate::cni::files::Host;
use crate::commands::{Failure, Outcome, print};

pub(super) fn run(args: CniArgs) -> Result<Outcome, Failure> {
    match args.command {
        None => plugin::run(),
        Some(CniCommand::Install(args)) => install::run(*args),
        Some(CniCommand::Uninstall(args)) => uninstall(&host(&args)),
        Some(CniCommand::Status(args)) => status(&host(&args)),
    }
}

fn host(args: &CniHostArgs) -> Host {
    let CniHostArgs { cni_bin_dir, cni_conf_dir, cni_conf_name } = args.clone();
    Host { bin_dir: cni_bin_dir, conf_dir: cni_conf_dir, conf_name: cni_conf_name }
}

/// In the order in which nothing is ever named that is not there.
fn uninstall(host: &Host) -> Result<Outcome, Failure> {
    let lists = host.remove_plugin()?;
    let mut removed: Vec<String> = lists.iter().map(|path| format!("the plugin in {}", path.display())).collect();
    if host.remove_kubeconfig()? {
        removed.push(host.kubeconfig().display().to_string());
    }
    if host.remove_executable()? {
        removed.push(host.executable().display().to_string());
    }
    let done =
        if removed.is_empty() { "nothing of ours was there".to_owned() } else { removed.join(", ") + ": removed" };
    print(&format!("{done}; rules of pods that run stay until they end\n"))?;
    Ok(Outcome::Done)
}

fn status(host: &Host) -> Result<Outcome, Failure> {
    let lacks = host.lacks();
    if lacks.is_empty() {
        print(&format!("installed: {} calls {}\n", host.list()?.display(), host.executable().display()))?;
        return Ok(Outcome::Done);
    }
    print(&format!("not installed: {}\n", lacks.join("; ")))?;
    Ok(Outcome::NotWell)
}
