//! The state that Kubernetes is told of.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;

use crate::core::news::Standing;
use crate::proxy::Sidecar;
use crate::proxy::canary::Rules;

const PERIOD: Duration = Duration::from_secs(1);

impl Sidecar {
    fn standing(&self, now: OffsetDateTime) -> Standing {
        let readiness = self.readiness(now);
        let refused = self.board.refusals().into_iter().map(|refusal| {
            let peer = refusal.identity.unwrap_or_else(|| refusal.peer.ip().to_string());
            (peer, refusal.reason.to_string())
        });
        Standing {
            ready: readiness.ready,
            why_not: readiness.reasons.join("; "),
            rules: self.rules_hold(),
            not_after: self.credentials().map(|credentials| credentials.leaf.not_after),
            refused: refused.collect(),
        }
    }

    /// By whoever reads them, else by the canary.
    fn rules_hold(&self) -> Option<bool> {
        if !self.config.expects_rules() {
            return None;
        }
        if let Some(rules) = self.rules() {
            return Some(rules.faults.is_empty());
        }
        let states = self.canary.states();
        let is_known = states.iter().any(|(_, rules)| matches!(rules, Rules::Present | Rules::Missing(_)));
        is_known.then(|| self.canary.fault().is_none())
    }
}

/// Says what changed, once a second.
pub(super) async fn watch(sidecar: Arc<Sidecar>, news: watch::Sender<Standing>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let standing = sidecar.standing(OffsetDateTime::now_utc());
        news.send_if_modified(|before| {
            let is_new = *before != standing;
            *before = standing;
            is_new
        });
    }
}
