//! `bypassctl init`: settings → plan → rules, applied, read back, proven; or nothing.

mod elsewhere;

use std::time::Duration;

use anyhow::anyhow;
use tracing::{info, warn};

use crate::cli::InitArgs;
use crate::commands::{Failure, Outcome, chain, print};
use crate::core::backend::{Backend, BackendChoice};
use crate::core::config::{AgentPorts, ClusterPorts, ConfigError, DEFAULT_MESH_UID, RedirectMode};
use crate::core::plan::{RedirectPlan, Substitutes, TABLE};
use crate::core::render::iptables::{Holding, script};
use crate::core::render::nft;
use crate::core::ruleset::{Chain, Family};
use crate::core::xtables::CHAIN_PREFIX;
use crate::netfilter::backend::{self as backends, BackendError, Rejected, Snapshot, Standing};
use crate::netfilter::iptables::IptablesError;
use crate::netfilter::lock::NamespaceLock;
use crate::netfilter::proof::{self, Proof, ProofError};
use crate::netfilter::{self, Applied, NetfilterError, namespace};

/// Longer than any proof takes.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(args: &InitArgs) -> Result<Outcome, Failure> {
    let plan = plan(args).map_err(Failure::usage)?;
    if args.dry_run {
        print(&rendered(&plan, args.backend))?;
        return Ok(Outcome::Done);
    }
    if args.prove_only {
        return elsewhere::prove_only(&plan);
    }
    refuse_host_network(args)?;
    let lock = lock()?;
    if args.cleanup {
        return cleanup(args);
    }
    let done = program(plan.clone(), args.backend, args.no_verify, &lock);
    let done = match args.backend {
        BackendChoice::Auto => done.or_else(|failure| elsewhere::instead(&plan, failure))?,
        _ => done?,
    };
    print(&done)?;
    Ok(Outcome::Done)
}

/// A second run would take the first one's proof for what a killed run left.
pub(super) fn lock() -> Result<NamespaceLock, Failure> {
    NamespaceLock::acquire(LOCK_LIMIT).map_err(Failure::environment)
}

/// Makes the rules of this network namespace, proves them, and says what was done; or changes nothing.
pub(super) fn program(
    mut plan: RedirectPlan,
    backend: BackendChoice,
    no_verify: bool,
    _lock: &NamespaceLock,
) -> Result<String, Failure> {
    if !namespace::loopback_is_up() {
        return Err(Failure::environment(anyhow!(
            "the interface lo of this network namespace is down, and redirected connections end on it; nothing was \
             changed. A container runtime brings it up; here, `ip link set lo up` does"
        )));
    }
    // What an earlier run was killed over would stand in the way of this one's proof.
    proof::remove_leftovers().map_err(from_proof)?;
    add_mesh_uids(&mut plan)?;
    let before = Snapshot::take().map_err(|error| from_backend(error.into()))?;
    let (standing, rejected) = backends::apply_by(backend, &plan).map_err(from_backend)?;
    let choice = name_choice(backend, &standing, &rejected);
    let proofs = before
        .remove_others(&standing)
        .map_err(anyhow::Error::from)
        .and_then(|()| if no_verify { Ok(Vec::new()) } else { Ok(proof::prove(&plan, &standing)?) })
        .map_err(|failure| roll_back(&before, &standing, failure))?;
    warn_of_interceptors()?;
    Ok(choice + &report(&plan, &standing, &proofs))
}

/// What the proof cannot meet.
fn warn_of_interceptors() -> Result<(), Failure> {
    let rules = match netfilter::interceptors_by_interface() {
        Err(NetfilterError::Unsupported(_)) => return Ok(()),
        rules => rules.map_err(from_netfilter)?,
    };
    for rule in rules {
        warn!(
            rule,
            "a rule names an interface and acts before nat; the proof's link has another name and did not meet it"
        );
    }
    Ok(())
}

pub(super) fn rendered(plan: &RedirectPlan, choice: BackendChoice) -> String {
    match choice {
        BackendChoice::Auto | BackendChoice::Nft => nft::render(&plan.ruleset(&Substitutes::default())),
        BackendChoice::IptablesNft | BackendChoice::IptablesLegacy => {
            let of = |family: Family| {
                let chains = script(&Holding::default(), &Holding::of(&plan.xtables(family), family));
                format!("# {}\n{chains}", family.name())
            };
            Family::BOTH.map(of).concat()
        }
    }
}

fn add_mesh_uids(plan: &mut RedirectPlan) -> Result<(), Failure> {
    for uid in netfilter::mesh_uids_of_everybody().map_err(from_netfilter)? {
        if uid != plan.agent_uid && !plan.mesh_uids.contains(&uid) {
            info!(uid, "found a mesh proxy's user id in the mesh's rules");
            plan.mesh_uids.push(uid);
        }
    }
    Ok(())
}

pub(super) fn plan(args: &InitArgs) -> Result<RedirectPlan, ConfigError> {
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
    let Some(reason) = namespace::is_host(args.pod_ip, args.host_ip).filter(|_| !args.allow_initial_netns) else {
        return Ok(());
    };
    Err(Failure::environment(anyhow!(
        "this is the node's network namespace ({reason}): rules here would hit every pod of the node; nothing was \
         changed. Remove hostNetwork: true from the pod, or, if the pod has a kernel of its own (Kata, Firecracker), \
         pass --allow-initial-netns"
    )))
}

fn cleanup(args: &InitArgs) -> Result<Outcome, Failure> {
    let leftovers = proof::remove_leftovers();
    warn_of_live_connections(&[args.agent.outbound_port, args.agent.inbound_port]);
    let removal = backends::remove_all();
    let done = if removal.removed.is_empty() { "nothing".to_owned() } else { removal.removed.join(", ") };
    let of_proof =
        leftovers.err().map(|error| ("what a killed run left of its proof".to_owned(), backend_error(error)));
    let failed = of_proof.into_iter().chain(removal.failed.into_iter().map(|(what, error)| (what, Ok(error))));
    let mut environment = true;
    let mut left: Vec<(String, String)> = Vec::new();
    for (what, error) in failed {
        environment &= error.as_ref().is_ok_and(is_environment);
        let why = error.map_or_else(|error| chain(&error.into()), |error| chain(&error.into()));
        // Each backend answers the same where the container's privileges do not do.
        match left.iter_mut().find(|(_, other)| *other == why) {
            Some((others, _)) => *others += &format!(", {what}"),
            None => left.push((what, why)),
        }
    }
    if !left.is_empty() {
        let left: String = left.into_iter().map(|(what, why)| format!("\n  {what}: {why}")).collect();
        let error = anyhow!("removed {done}; not removed, or not wholly:{left}");
        return Err(if environment { Failure::environment(error) } else { Failure::from(error) });
    }
    let mut text = String::new();
    for foreign in &removal.foreign {
        text += &format!("{foreign} is somebody else's, and is left alone\n");
    }
    text += &match (removal.removed.is_empty(), removal.foreign.is_empty()) {
        (false, _) => format!("removed {done}\n"),
        (true, false) => "there is nothing of ours to remove\n".to_owned(),
        (true, true) => {
            format!("there is no table inet {TABLE}, nor a chain of ours in iptables; nothing to remove\n")
        }
    };
    print(&text)?;
    Ok(Outcome::Done)
}

/// Connections keep their redirection for as long as anybody's nat chain stands; with the last one the kernel undoes it
/// (net/netfilter/nf_nat_core.c, `nf_nat_unregister_fn`).
fn warn_of_live_connections(agent_ports: &[u16]) {
    match netfilter::redirected_connections(agent_ports) {
        Ok(0) => {}
        Ok(connections) => warn!(
            connections,
            "removing the rules under live connections: where a mesh's nat rules stand these go on, else they are reset; \
             new ones go where the mesh sends them, and peers' arrive without TLS of ours"
        ),
        // A kernel without ctnetlink: what it cannot tell is no reason to leave the rules.
        Err(error) => tracing::debug!(%error, "the live connections cannot be counted"),
    }
}

/// Which backend took the rules, and what the pod lacks that the user may miss.
fn name_choice(choice: BackendChoice, standing: &Standing, rejected: &[Rejected]) -> String {
    for one in rejected {
        warn!("backend {} is out of the question: {}", one.backend, one.reason);
    }
    let backend = standing.backend();
    let why = match (choice, backend) {
        (BackendChoice::Auto, Backend::Nft) => "nf_tables takes them over netlink",
        (BackendChoice::Auto, Backend::Iptables(_)) => "the first that kernel and image have",
        _ => "as asked for",
    };
    let mut text = format!("backend {backend}: {why}\n");
    if !namespace::has_family(Family::V6) {
        text += "this pod has no IPv6: nothing of it can be, or need be, proven\n";
    }
    if let Standing::Nft(applied) = standing {
        name_substitutes(applied);
    }
    text
}

fn name_substitutes(applied: &Applied) {
    if applied.rulesets.len() > 1 {
        warn!("this kernel has no nat in family inet (Linux before 5.2): two tables stand in for one");
    }
    if applied.substitutes.local_addresses.is_some() {
        warn!("this kernel has no nft expression fib (module nft_fib_inet): the pod's own addresses stand in for it");
    }
    if applied.substitutes.drop_for_reject {
        warn!("this kernel has no nft expression reject (module nft_reject_inet): refused connections time out");
    }
}

fn roll_back(before: &Snapshot, standing: &Standing, failure: anyhow::Error) -> Failure {
    let outcome = match before.put_back(standing) {
        Ok(()) if before.is_empty() => "the rules are removed".to_owned(),
        Ok(()) => "the rules of the earlier run are back".to_owned(),
        Err(error) => format!("the rules could not be removed ({error}); run `bypassctl init --cleanup`"),
    };
    Failure::not_proven(failure.context(format!("rules applied but not proven, so {outcome}")))
}

fn report(plan: &RedirectPlan, standing: &Standing, proofs: &[Proof]) -> String {
    let what = match standing {
        Standing::Nft(applied) => {
            let rules = |chains: &[Chain]| chains.iter().map(|chain| chain.rules.len()).sum::<usize>();
            let tables = applied
                .rulesets
                .iter()
                .map(|ruleset| format!("table {} {TABLE}: {} rules", ruleset.family.name(), rules(&ruleset.chains)));
            format!("{}, one transaction", tables.collect::<Vec<_>>().join(", "))
        }
        Standing::Iptables(held) => {
            format!("chains {CHAIN_PREFIX}* of {}: {} rules", standing.backend(), held.rule_count())
        }
    };
    let mut lines = vec![format!(
        "{what}; remoting {} {}, management {} straight",
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

fn from_proof(error: ProofError) -> Failure {
    backend_error(error).map_or_else(Failure::from, from_backend)
}

/// That of the backend that the proof fell over, if it was one.
fn backend_error(error: ProofError) -> Result<BackendError, ProofError> {
    match error {
        ProofError::Netfilter(error) => Ok(error.into()),
        ProofError::Iptables(error) => Ok(error.into()),
        error => Err(error),
    }
}

fn from_backend(error: BackendError) -> Failure {
    let environment = is_environment(&error);
    match error {
        BackendError::Netfilter(error) if environment => Failure::environment(error),
        error => {
            let error = anyhow::Error::from(error).context("init changed nothing");
            if environment { Failure::environment(error) } else { Failure::from(error) }
        }
    }
}

fn from_netfilter(error: NetfilterError) -> Failure {
    from_backend(error.into())
}

/// Whether the environment cannot do it, rather than that it failed.
const fn is_environment(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::Netfilter(
            NetfilterError::Unsupported(_) | NetfilterError::NotPermitted(_) | NetfilterError::Taken { .. }
        ) | BackendError::None(_)
            | BackendError::Iptables(
                IptablesError::Missing(_)
                    | IptablesError::NotPermitted { .. }
                    | IptablesError::NotRoot { .. }
                    | IptablesError::Unsupported { .. }
                    | IptablesError::Taken { .. },
            )
    )
}
