//! `bypassctl cni`: the CNI plugin, and what installs it on a node.

mod install;
mod plugin;

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;

use crate::cli::{CniArgs, CniCommand, CniHostArgs};
use crate::cni::files::Host;
use crate::commands::{Failure, Outcome, print};

pub(super) fn run(args: CniArgs) -> Result<Outcome, Failure> {
    match args.command {
        None => plugin::run(),
        Some(CniCommand::Install(args)) => install::run(*args),
        Some(CniCommand::Uninstall(args)) => uninstall(&host(&args)?),
        Some(CniCommand::Status(args)) => status(&host(&args)?),
    }
}

/// The plugin is started elsewhere, by the runtime: what is written for it is written absolutely.
fn host(args: &CniHostArgs) -> Result<Host, Failure> {
    let CniHostArgs { cni_bin_dir, cni_conf_dir, cni_conf_name } = args;
    let absolute = |dir: &Path| {
        std::path::absolute(dir).map_err(|error| Failure::usage(anyhow!("the directory {}: {error}", dir.display())))
    };
    Ok(Host { bin_dir: absolute(cni_bin_dir)?, conf_dir: absolute(cni_conf_dir)?, conf_name: cni_conf_name.clone() })
}

/// In the order in which nothing is ever named that is not there.
fn uninstall(host: &Host) -> Result<Outcome, Failure> {
    let lists = host.remove_plugin()?;
    let mut removed: Vec<String> = lists.lists.iter().map(|path| format!("the plugin in {}", path.display())).collect();
    host.remove_leftovers(Duration::ZERO);
    if !lists.failed.is_empty() {
        let failed: String = lists.failed.iter().map(|error| format!("\n  {error}")).collect();
        return Err(Failure::from(anyhow!(
            "removed: {}; these may still name the plugin, whose executable and kubeconfig therefore stay, as no pod would \
             start without them:{failed}\nRemove or mend them, and run it again",
            if removed.is_empty() { "nothing".to_owned() } else { removed.join(", ") }
        )));
    }
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
