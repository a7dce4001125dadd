//! Rules that somebody else has made: `init --prove-only`, and what `init` does where it may make none.

use anyhow::anyhow;

use crate::commands::{Failure, Outcome, chain, check, print};
use crate::core::config::RedirectMode;
use crate::core::plan::RedirectPlan;
use crate::netfilter::NetfilterError;
use crate::netfilter::backend::BackendError;
use crate::netfilter::iptables::IptablesError;
use crate::netfilter::proof::{ElsewhereError, Proof, prove_made_elsewhere};

const HINT: &str = "who was to make them has not: the node's CNI plugin (docs/cni.md), an init container before this one; \
                    or this pod's ports are others than theirs";

/// Proves, with no privilege, and changes nothing.
pub(super) fn prove_only(plan: &RedirectPlan) -> Result<Outcome, Failure> {
    match prove_made_elsewhere(plan) {
        Ok(proofs) => print(&report(plan, &proofs))?,
        Err(ElsewhereError::Busy(place)) => ask_the_sidecar(plan, &ElsewhereError::Busy(place))?,
        Err(error @ ElsewhereError::NotThere(_)) => {
            return Err(Failure::not_proven(
                anyhow::Error::from(error).context(format!("not proven, nothing was changed; {HINT}")),
            ));
        }
        Err(error) => return Err(Failure::environment(error)),
    }
    Ok(Outcome::Done)
}

fn report(plan: &RedirectPlan, proofs: &[Proof]) -> String {
    let found = match plan.mode {
        RedirectMode::Capture => "somebody else's rules hold",
        RedirectMode::Bypass => "remoting and management go straight, by somebody else's rules or for want of any",
    };
    let mut lines = vec![format!("{found}; nothing was changed")];
    lines.extend(proofs.iter().map(ToString::to_string));
    lines.push("not tried: what arrives, which nobody in a pod can dial from outside without NET_ADMIN".to_owned());
    lines.join("\n") + "\n"
}

fn ask_the_sidecar(plan: &RedirectPlan, busy: &ElsewhereError) -> Result<(), Failure> {
    match check::asked_of_sidecar(plan.agent.admin)? {
        Some(true) => print("the sidecar is up, and its canary comes back to it: somebody else's rules hold\n"),
        Some(false) => {
            Err(Failure::not_proven(anyhow!("the sidecar is up, and its canary does not come back to it; {HINT}")))
        }
        None => Err(Failure::environment(anyhow!("{busy}; its admin port {} does not tell", plan.agent.admin))),
    }
}

/// What `init` does where it may make no rules: whether somebody else's hold; else the failure, with both reasons.
pub(super) fn instead(plan: &RedirectPlan, failure: Failure) -> Result<String, Failure> {
    if !is_for_want_of_privilege(&failure) {
        return Err(failure);
    }
    match prove_made_elsewhere(plan) {
        Ok(proofs) => {
            Ok(format!("no backend of this container's own: {}\n{}", chain(&failure.error), report(plan, &proofs)))
        }
        Err(other) => {
            let tried = format!("no rules can be made here, and nobody else's hold ({})", chain(&other.into()));
            Err(Failure { kind: failure.kind, error: failure.error.context(tried) })
        }
    }
}

fn is_for_want_of_privilege(failure: &Failure) -> bool {
    let of_backend = failure.error.downcast_ref::<BackendError>();
    let netfilter = failure.error.downcast_ref::<NetfilterError>().or(match of_backend {
        Some(BackendError::Netfilter(error)) => Some(error),
        _ => None,
    });
    matches!(netfilter, Some(NetfilterError::NotPermitted(_)))
        || matches!(
            of_backend,
            Some(BackendError::Iptables(IptablesError::NotPermitted { .. } | IptablesError::NotRoot { .. }))
        )
}
