//! The plugin, as a container runtime calls it.
//!
//! Invariant: standard output has the protocol's answer and nothing else, and a pod that should have rules and cannot get
//! them does not start.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use clap::ValueEnum as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use crate::cluster::client::{Target, causes, connect};
use crate::cni::netns::{NetnsError, PodNetns};
use crate::commands::{Failure, FailureKind, Outcome, chain, init, print};
use crate::core::backend::BackendChoice;
use crate::core::checks::pod::unfit;
use crate::core::cni::choice::{Choice, choose};
use crate::core::cni::{Code, Configuration, Fault, MOST_BYTES, PodName, Settings, Verb, verb, versions};
use crate::core::plan::{RedirectPlan, TABLE};
use crate::core::ruleset::TableFamily;
use crate::netfilter::backend::remove_all;
use crate::netfilter::{self, NetfilterError, namespace, proof};

/// How long the API server may take for one pod; kubelets give the whole of a pod's network some minutes.
const LIMIT: Duration = Duration::from_secs(10);
/// Characters of an error that are worth handing on: a kubelet makes an event of them.
const LONGEST: usize = 2000;

pub(super) fn run() -> Result<Outcome, Failure> {
    let Some(command) = std::env::var("CNI_COMMAND").ok().filter(|command| !command.is_empty()) else {
        return Err(Failure::usage(anyhow!(
            "CNI_COMMAND is not set: without a command of its own `bypassctl cni` is for container runtimes to call; \
             `bypassctl cni install` installs it"
        )));
    };
    let input = read_input();
    let version = input.as_deref().ok().and_then(version_of).unwrap_or_else(|| "1.0.0".to_owned());
    match verb(&command).and_then(|verb| answer(verb, input, &version)) {
        Ok(answer) => {
            print(&answer.map(|answer| format!("{answer}\n")).unwrap_or_default())?;
            Ok(Outcome::Done)
        }
        Err(fault) => {
            tracing::error!(command, code = fault.code as u32, "{fault}");
            print(&format!("{}\n", fault.json(&version)))?;
            Ok(Outcome::NotWell)
        }
    }
}

fn read_input() -> Result<Vec<u8>, Fault> {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(MOST_BYTES as u64 + 1).read_to_end(&mut input);
    match read {
        Ok(size) if size > MOST_BYTES => {
            Err(Fault::new(Code::Undecodable, "the configuration on standard input is larger than 1 MiB", ""))
        }
        Ok(_) => Ok(input),
        Err(error) => Err(Fault::new(Code::Io, format!("standard input cannot be read: {error}"), "")),
    }
}

/// That in which an error is told, however bad the rest is.
fn version_of(input: &[u8]) -> Option<String> {
    Some(serde_json::from_slice::<Value>(input).ok()?.get("cniVersion")?.as_str()?.to_owned())
}

fn answer(verb: Verb, input: Result<Vec<u8>, Fault>, version: &str) -> Result<Option<Value>, Fault> {
    let configuration = || Configuration::parse(&input?);
    match verb {
        Verb::Version => Ok(Some(versions(version))),
        Verb::Add => add(&configuration()?).map(Some),
        Verb::Check => check(&configuration()?).map(|()| None),
        // Whatever the configuration is: a pod has to be able to end while the list is being mended.
        Verb::Del => {
            del();
            Ok(None)
        }
        Verb::Status => status(&configuration()?.settings).map(|()| None),
        // Nothing is kept of any container.
        Verb::Gc => Ok(None),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The namespace and the pod that the runtime names.
fn called_for() -> Result<(PodNetns, Option<PodName>), Fault> {
    let needed = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    let missing: Vec<_> = needed.into_iter().filter(|name| variable(name).is_empty()).collect();
    if !missing.is_empty() {
        let message = format!("{} not set", missing.join(", "));
        return Err(Fault::new(Code::Environment, message, "see the container runtime"));
    }
    let netns = PodNetns::open(&PathBuf::from(variable("CNI_NETNS"))).map_err(|error| of_netns(&error))?;
    Ok((netns, PodName::of(&variable("CNI_ARGS"))?))
}

fn of_netns(error: &NetnsError) -> Fault {
    let code = match error {
        NetnsError::Own(_) | NetnsError::NoNamespace(_) => Code::Environment,
        NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Vanished(_) => Code::Io,
    };
    Fault::new(code, error.to_string(), "nothing was changed that is left")
}

fn add(configuration: &Configuration) -> Result<Value, Fault> {
    let result = configuration.result()?;
    // Held open from here on, so that it does not become another one's while the API server is asked.
    let (netns, pod) = called_for()?;
    let Some((pod, plan)) = rules_for(pod, &configuration.settings)? else { return Ok(result) };
    netns.enter().map_err(|error| of_netns(&error))?;
    let lock = init::lock().map_err(|failure| of_failure(&pod, &failure))?;
    if !namespace::loopback_is_up() {
        namespace::raise_loopback()
            .map_err(|error| Fault::new(Code::Io, format!("pod {pod}: lo cannot be brought up: {error}"), ""))?;
    }
    if let Some(wrong) = standing(&plan).filter(|wrong| !wrong.is_empty()) {
        let message = format!("pod {pod} has rules of ours already, and they are others: {}", wrong.join("; "));
        let details = "the configuration list names this plugin twice, with different settings; bypassctl cni install \
                       leaves one of them";
        return Err(Fault::new(Code::InvalidConfiguration, message, details));
    }
    // Also where they stand already: whoever made them may have been killed before it had proven them.
    let done = init::program(plan, backend(&configuration.settings)?, false, &lock);
    let done = done.map_err(|failure| of_failure(&pod, &failure))?;
    tracing::info!(%pod, "{}", done.trim_end().replace('\n', "; "));
    netns.still_there().map_err(|error| of_netns(&error))?;
    Ok(result)
}

/// What of the rules that stand does not fit; `None` if none stand that can be read.
fn standing(plan: &RedirectPlan) -> Option<Vec<String>> {
    if netfilter::is_foreign(TableFamily::Inet, TABLE).unwrap_or_default() {
        return None;
    }
    let table = netfilter::read(TableFamily::Inet, TABLE).ok().flatten()?;
    Some(unfit(&table.ruleset, &plan.cluster, plan.agent, plan.mode))
}

fn check(configuration: &Configuration) -> Result<(), Fault> {
    let (netns, pod) = called_for()?;
    let Some((pod, plan)) = rules_for(pod, &configuration.settings)? else { return Ok(()) };
    netns.enter().map_err(|error| of_netns(&error))?;
    let lost = |what: String| {
        let details = "bypassctl check pod in its sidecar says more; the pod has to be made anew";
        Fault::new(Code::RulesLost, format!("pod {pod}: {what}"), details)
    };
    match standing(&plan) {
        Some(wrong) if wrong.is_empty() => Ok(()),
        Some(wrong) => Err(lost(format!("its rules are not those that it is to have: {}", wrong.join("; ")))),
        None if netfilter::rules_elsewhere().is_some() => Ok(()),
        None => Err(lost("its rules are gone".to_owned())),
    }
}

/// A namespace that is gone took its rules with it; of one that is not, they are removed. Nothing of this keeps a pod from
/// ending.
fn del() {
    let path = PathBuf::from(variable("CNI_NETNS"));
    let entered = PodNetns::open(&path).and_then(|netns| netns.enter());
    if let Err(error) = entered {
        tracing::debug!(%error, "nothing to remove");
        return;
    }
    // An ADD that was given up may not have ended yet; whatever it does then, the namespace goes.
    let _lock = init::lock();
    if let Err(error) = proof::remove_leftovers() {
        tracing::warn!(%error, "what a killed run left of its proof stays in a pod's network namespace");
    }
    for (what, error) in remove_all().failed {
        tracing::warn!(what, %error, "rules of a pod that ends are left in its network namespace");
    }
}

fn status(settings: &Settings) -> Result<(), Fault> {
    let unavailable = |message: String, details: &str| Fault::new(Code::Unavailable, message, details);
    let advice = "bypassctl cni install writes it; is its DaemonSet up?";
    let Some(path) = &settings.kubeconfig else {
        return Err(unavailable("the plugin's configuration names no kubeconfig".to_owned(), advice));
    };
    if let Err(error) = std::fs::File::open(path) {
        return Err(unavailable(format!("the plugin's kubeconfig {}: {error}", path.display()), advice));
    }
    match netfilter::read(TableFamily::Inet, TABLE) {
        Err(error @ NetfilterError::Unsupported(_)) if backend(settings)? == BackendChoice::Nft => {
            Err(unavailable(error.to_string(), "load the modules on the node"))
        }
        _ => Ok(()),
    }
}

fn backend(settings: &Settings) -> Result<BackendChoice, Fault> {
    let Some(name) = &settings.backend else { return Ok(BackendChoice::Auto) };
    BackendChoice::from_str(name, true).map_err(|_| {
        let message = format!("the plugin's configuration: backend {name:?} is none");
        Fault::new(Code::InvalidConfiguration, message, "write auto, nft, iptables-nft or iptables-legacy")
    })
}

/// The pod and what it is to have; `None` if it is left alone.
fn rules_for(pod: Option<PodName>, settings: &Settings) -> Result<Option<(PodName, RedirectPlan)>, Fault> {
    let Some(pod) = pod else {
        tracing::info!("the runtime names no pod of Kubernetes: left alone");
        return Ok(None);
    };
    if settings.excludes(&pod.namespace) {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Code::Io, format!("no runtime: {error}"), ""))?;
    let record = runtime.block_on(record(&pod, settings))?;
    runtime.shutdown_background();
    let Some(record) = record else {
        tracing::info!(%pod, "the API server does not know it: left alone");
        return Ok(None);
    };
    let choice = choose(&record, settings).map_err(|reason| {
        let message = format!("pod {pod}: which rules it is to have makes no sense: {reason}");
        Fault::new(Code::InvalidConfiguration, message, "mend the pod, or annotate it with bypassctl.io/rules: none")
    })?;
    match choice {
        Choice::Leave(why) => {
            tracing::info!(%pod, why, "left alone");
            Ok(None)
        }
        Choice::Program(plan) => Ok(Some((pod, *plan))),
    }
}

async fn record(pod: &PodName, settings: &Settings) -> Result<Option<Pod>, Fault> {
    let advice = "no pod of this node starts meanwhile but those of excluded namespaces; see bypassctl cni install";
    let Some(kubeconfig) = &settings.kubeconfig else {
        let message = "the plugin's configuration names no kubeconfig, so nobody can be asked what pods want";
        return Err(Fault::new(Code::InvalidConfiguration, message, advice));
    };
    let target = Target {
        kubeconfig: Some(kubeconfig.clone()),
        context: None,
        namespace: Some(pod.namespace.clone()),
        is_direct: true,
    };
    let later = |message: String| Fault::new(Code::TryLater, format!("pod {pod}: {message}"), advice);
    let cluster = connect(&target).await.map_err(|error| later(error.to_string()))?;
    let pods: Api<Pod> = Api::namespaced(cluster.client, &pod.namespace);
    let asked = tokio::time::timeout(LIMIT, pods.get_opt(&pod.name)).await;
    let asked = asked.map_err(|_| later(format!("no answer of the API server within {} s", LIMIT.as_secs())))?;
    let record = asked.map_err(|error| later(format!("the API server does not tell of it: {}", causes(&error))))?;
    if let (Some(record), Some(uid)) = (&record, &pod.uid)
        && record.uid().as_ref() != Some(uid)
        // A static pod has another uid for its node than for the API server.
        && !record.annotations().contains_key("kubernetes.io/config.mirror")
    {
        return Err(later("the API server has another pod of this name".to_owned()));
    }
    Ok(record)
}

fn of_failure(pod: &PodName, failure: &Failure) -> Fault {
    let code = match failure.kind {
        FailureKind::NotProven => Code::NotProven,
        FailureKind::Environment => Code::NoBackend,
        FailureKind::Usage | FailureKind::NotWell | FailureKind::Runtime => Code::Io,
    };
    let text: String = chain(&failure.error).chars().take(LONGEST).collect();
    Fault::new(code, format!("pod {pod}: {text}"), "")
}
