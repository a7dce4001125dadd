//! `bypassctl init`: settings → plan → rules, applied, read back, proven; or nothing.

use std::time::Duration;

use anyhow::anyhow;
use tracing::{info, warn};

use crate::cli::InitArgs;
use crate::commands::{Failure, Outcome, print};
use crate::core::config::{AgentPorts, ClusterPorts, ConfigError, DEFAULT_MESH_UID, RedirectMode};
use crate::core::plan::{RedirectPlan, Substitutes, TABLE};
use crate::core::render::nft;
use crate::core::ruleset::Ruleset;
use crate::netfilter::lock::NamespaceLock;
use crate::netfilter::proof::{self, Proof};
use crate::netfilter::{self, Applied, NetfilterError};

/// Longer than any proof takes.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &InitArgs) -> Result<Outcome, Failure> {
    let mut plan = plan(args).map_err(Failure::usage)?;
    if args.dry_run {
        print(&nft::render(&plan.ruleset(&Substitutes::default())))?;
        return Ok(Outcome::Done);
    }
    refuse_host_network(args)?;
    // A second run would take the first one's proof for what a killed run left.
    let _lock = NamespaceLock::acquire(LOCK_LIMIT).map_err(Failure::environment)?;
    if args.cleanup {
        return cleanup();
    }
    if !netfilter::namespace::loopback_is_up() {
        return Err(Failure::environment(anyhow!(
            "the interface lo of this network namespace is down, and redirected connections end on it; nothing was \
             changed. A container runtime brings it up; here, `ip link set lo up` does"
        )));
    }
    // What an earlier run was killed over would stand in the way of this one's proof.
    proof::remove_leftovers().map_err(from_netfilter)?;
    for uid in netfilter::mesh_uids(TABLE).map_err(from_netfilter)? {
        if uid != plan.agent_uid && !plan.mesh_uids.contains(&uid) {
            info!(uid, "found a mesh proxy's user id in the mesh's rules");
            plan.mesh_uids.push(uid);
        }
    }
    let before = netfilter::read(TABLE);
    let applied = netfilter::apply_plan(&plan).map_err(from_netfilter)?;
    name_substitutes(&applied);
    let proofs = verify(args, &plan, &applied.ruleset).map_err(|failure| roll_back(before, failure))?;
    for rule in netfilter::interceptors_by_interface().map_err(from_netfilter)? {
        warn!(
            rule,
            "a rule names an interface and acts before nat; the proof's link has another name and did not meet it"
        );
    }
    print(&report(&plan, &applied.ruleset, &proofs))?;
    Ok(Outcome::Done)
}

fn plan(args: &InitArgs) -> Result<RedirectPlan, ConfigError> {
    let cluster = ClusterPorts::new(args.cluster.preset, &args.cluster.remoting_port, &args.cluster.management_port)?;
    let agent = &args.agent;
    let mesh_uids = if args.mesh_uid.is_empty() { vec![DEFAULT_MESH_UID] } else { args.mesh_uid.clone() };
    RedirectPlan {
        mode: args.mode,
        cluster,
        agent: AgentPorts { outbound: agent.outbound_port, inbound: agent.inbound_port, admin: agent.admin_port },
        agent_uid: args.agent_uid,
        mesh_uids,
        mesh_mark: args.mesh_mark,
        side_doors: args.side_doors,
    }
    .checked()
}

fn refuse_host_network(args: &InitArgs) -> Result<(), Failure> {
    let Some(reason) = netfilter::namespace::is_host(args.pod_ip, args.host_ip).filter(|_| !args.allow_initial_netns)
    else {
        return Ok(());
    };
    Err(Failure::environment(anyhow!(
        "this is the node's network namespace ({reason}): rules here would hit every pod of the node; nothing was \
         changed. Remove hostNetwork: true from the pod, or, if the pod has a kernel of its own (Kata, Firecracker), \
         pass --allow-initial-netns"
    )))
}

fn cleanup() -> Result<Outcome, Failure> {
    proof::remove_leftovers().map_err(from_netfilter)?;
    print(&if netfilter::delete(TABLE).map_err(from_netfilter)? {
        format!("removed table inet {TABLE}; connections that it redirected live on until they close\n")
    } else {
        format!("there is no table inet {TABLE}; nothing to remove\n")
    })?;
    Ok(Outcome::Done)
}

fn name_substitutes(applied: &Applied) {
    if applied.substitutes.local_addresses.is_some() {
        warn!("this kernel has no nft expression fib (module nft_fib_inet): the pod's own addresses stand in for it");
    }
    if applied.substitutes.drop_for_reject {
        warn!("this kernel has no nft expression reject (module nft_reject_inet): refused connections time out");
    }
}

fn verify(args: &InitArgs, plan: &RedirectPlan, ruleset: &Ruleset) -> Result<Vec<Proof>, anyhow::Error> {
    if args.no_verify {
        return Ok(Vec::new());
    }
    proof::prove(plan, ruleset).map_err(anyhow::Error::from)
}

fn roll_back(before: Result<Option<netfilter::Table>, NetfilterError>, failure: anyhow::Error) -> Failure {
    let restored = match before {
        Ok(Some(table)) => netfilter::apply(&table.ruleset).map(|()| "the rules of the earlier run are back"),
        // A table of ours that cannot be read was no working one.
        Ok(None) | Err(_) => netfilter::delete(TABLE).map(|_| "the rules are removed"),
    };
    let outcome = match restored {
        Ok(text) => text.to_owned(),
        Err(error) => format!("the rules could not be removed ({error}); run `bypassctl init --cleanup`"),
    };
    Failure::not_proven(failure.context(format!("rules applied but not proven, so {outcome}")))
}

fn report(plan: &RedirectPlan, ruleset: &Ruleset, proofs: &[Proof]) -> String {
    let rules: usize = ruleset.chains.iter().map(|chain| chain.rules.len()).sum();
    let mut lines = vec![format!(
        "table inet {TABLE}: {rules} rules, one transaction; remoting {} {}, management {} straight",
        plan.cluster.remoting,
        match plan.mode {
            RedirectMode::Capture => "through the agent",
            RedirectMode::Bypass => "straight",
        },
        plan.cluster.management,
    )];
    lines.extend(proofs.iter().map(ToString::to_string));
    if proofs.is_empty() {
        lines.push("not proven: --no-verify".to_owned());
    }
    lines.join("\n") + "\n"
}

fn from_netfilter(error: NetfilterError) -> Failure {
    match error {
        NetfilterError::Unsupported(_) | NetfilterError::NotPermitted(_) => Failure::environment(error),
        _ => Failure::from(anyhow::Error::from(error).context("init changed nothing")),
    }
}
