//! `bypassctl check pre`: whether this node and a namespace let bypassctl run.

use k8s_openapi::api::core::v1::Namespace;

use crate::cli::CheckPreArgs;
use crate::cluster::client::{self, Target};
use crate::cluster::gather::{namespace, plugins};
use crate::commands::check::{judged, tell};
use crate::commands::cluster::{runtime, unreachable};
use crate::commands::{Failure, Outcome};
use crate::core::backend::Variant;
use crate::core::checks::pre::{self, ENFORCE, NamespaceFacts, NodeFacts};
use crate::core::plan::TABLE;
use crate::core::report::{CheckResult, Observed};
use crate::core::ruleset::TableFamily;
use crate::netfilter::{self, NetfilterError, iptables};

pub(super) fn check(args: &CheckPreArgs) -> Result<Outcome, Failure> {
    let mut results = Vec::new();
    let named = args.target.namespace.is_some() || args.target.context.is_some() || args.target.kubeconfig.is_some();
    if !named {
        results.extend(pre::node(&node()));
    }
    if named || args.with_namespace {
        results.extend(runtime()?.block_on(of_namespace(args))?);
    }
    tell(&judged(results, &args.result), &args.result, true)
}

async fn of_namespace(args: &CheckPreArgs) -> Result<Vec<CheckResult>, Failure> {
    let target = Target {
        kubeconfig: args.target.kubeconfig.clone(),
        context: args.target.context.clone(),
        namespace: args.target.namespace.clone(),
        is_direct: false,
    };
    let cluster = client::connect(&target).await.map_err(unreachable)?;
    let enforced = match namespace(&cluster).await {
        Ok(Some(found)) => Observed::Seen(level(&found)),
        Ok(None) => {
            let (context, name) = (&cluster.context, &cluster.namespace);
            return Err(Failure::usage(anyhow::anyhow!(
                "context {context} has no namespace {name}; give -n NAMESPACE"
            )));
        }
        Err(reason) => Observed::Unavailable(reason),
    };
    let plugins = plugins(&cluster).await.map_or_else(Observed::Unavailable, Observed::Seen);
    let facts = NamespaceFacts { name: cluster.namespace, enforced, plugins, server_version: cluster.server_version };
    Ok(pre::namespace(&facts))
}

fn level(namespace: &Namespace) -> Option<String> {
    namespace.metadata.labels.as_ref()?.get(ENFORCE).cloned()
}

fn node() -> NodeFacts {
    let nf_tables = match netfilter::read(TableFamily::Inet, TABLE) {
        Ok(_) | Err(NetfilterError::Taken { .. } | NetfilterError::Foreign { .. }) => Observed::Seen(Ok(())),
        Err(error @ NetfilterError::Unsupported(_)) => Observed::Seen(Err(error.to_string())),
        Err(error) => Observed::Unavailable(error.to_string()),
    };
    NodeFacts {
        capabilities: capabilities(),
        nf_tables,
        iptables: Variant::BOTH.map(|variant| (variant.name(), iptables::lacking(variant))).to_vec(),
    }
}

fn capabilities() -> Observed<u64> {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => return Observed::Unavailable(format!("/proc/self/status: {error}")),
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.map_or_else(|| Observed::Unavailable("/proc/self/status tells no CapEff".to_owned()), Observed::Seen)
}
