//! What of a sidecar's state a user should see in `kubectl describe`: as events of its pod, and as a condition of it.
//!
//! Invariant: only changes are news, so a pod that stays unwell does not fill the namespace's events.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

/// A certificate that ends sooner than this, and is not renewed, is news.
const SOON: Duration = Duration::DAY;
/// Events are for people; the rest is counted, and in `/status`.
const MOST_PEERS: usize = 8;

/// The state that matters, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What `/ready` says.
    pub ready: bool,
    /// Why not.
    pub why_not: String,
    /// Whether rules are there, by what was last seen; `None` before anybody looked or where none are expected.
    pub rules: Option<bool>,
    /// When our certificate ends.
    pub not_after: Option<OffsetDateTime>,
    /// Peers that were refused since the sidecar started, with the reason.
    pub refused: BTreeSet<(String, String)>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether somebody should act.
    pub warning: bool,
    /// In one word, as Kubernetes' own are.
    pub reason: &'static str,
    /// In a sentence.
    pub note: String,
}

/// What happened between two moments.
#[must_use]
pub fn between(before: &Standing, after: &Standing, was: OffsetDateTime, now: OffsetDateTime) -> Vec<News> {
    let mut news = Vec::new();
    let mut tell = |warning, reason, note| news.push(News { warning, reason, note });
    match (before.rules, after.rules) {
        (Some(true) | None, Some(false)) => tell(
            true,
            "RemotingRulesLost",
            "remoting does not pass through the sidecar: the rules of this pod's network are gone or overridden; \
             `bypassctl check pod` in the sidecar says by whom"
                .to_owned(),
        ),
        (Some(false), Some(true)) => {
            tell(false, "RemotingRulesBack", "remoting passes through the sidecar again".to_owned());
        }
        _ => {}
    }
    if let Some(end) = after.not_after {
        let left = |at| before.not_after.map_or(Duration::MAX, |end| end - at);
        if end <= now && (before.not_after != after.not_after || left(was) > Duration::ZERO) {
            tell(
                true,
                "RemotingCertificateEnded",
                format!("the certificate ended at {end}; no peer takes it any more"),
            );
        } else if end > now && end - now < SOON && (before.not_after != after.not_after || left(was) >= SOON) {
            tell(
                true,
                "RemotingCertificateEndsSoon",
                format!("the certificate ends at {end}, and has not been renewed"),
            );
        }
    }
    for (peer, reason) in after.refused.difference(&before.refused).take(MOST_PEERS) {
        tell(true, "RemotingPeerRefused", format!("{peer} was refused: {reason}"));
    }
    news
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-10 12:00 UTC);

    fn reasons(before: &Standing, after: &Standing) -> Vec<&'static str> {
        between(before, after, NOW - Duration::SECOND, NOW).into_iter().map(|news| news.reason).collect()
    }

    #[test]
    fn rules_are_news_when_they_go_and_when_they_come_back() {
        let with = |rules| Standing { rules, ..Standing::default() };
        assert_eq!(reasons(&with(Some(true)), &with(Some(false))), ["RemotingRulesLost"]);
        assert_eq!(reasons(&with(None), &with(Some(false))), ["RemotingRulesLost"]);
        assert_eq!(reasons(&with(Some(false)), &with(Some(true))), ["RemotingRulesBack"]);
        for same in [None, Some(true), Some(false)] {
            assert!(reasons(&with(same), &with(same)).is_empty());
        }
        assert!(reasons(&with(None), &with(Some(true))).is_empty());
    }

    #[test]
    fn a_certificate_is_news_when_its_last_day_begins_and_when_it_ends() {
        let with = |left: Duration| Standing { not_after: Some(NOW + left), ..Standing::default() };
        let soon = with(Duration::DAY - Duration::milliseconds(500));
        assert_eq!(reasons(&soon, &soon), ["RemotingCertificateEndsSoon"]);
        let later = with(Duration::hours(5));
        assert!(reasons(&later, &later).is_empty(), "told before");
        assert_eq!(reasons(&Standing::default(), &later), ["RemotingCertificateEndsSoon"], "as it starts");
        let ended = with(Duration::ZERO);
        assert_eq!(reasons(&ended, &ended), ["RemotingCertificateEnded"]);
        assert!(reasons(&later, &with(Duration::days(30))).is_empty(), "renewed");
        let long = with(-Duration::HOUR);
        assert!(reasons(&long, &long).is_empty(), "told before");
    }

    #[test]
    fn each_refused_peer_is_news_once() {
        let with = |peers: &[&str]| Standing {
            refused: peers.iter().map(|peer| ((*peer).to_owned(), "denied".to_owned())).collect(),
            ..Standing::default()
        };
        assert_eq!(reasons(&with(&["a"]), &with(&["a", "b"])), ["RemotingPeerRefused"]);
        assert!(reasons(&with(&["a"]), &with(&["a"])).is_empty());
        let many: Vec<String> = (0..100).map(|peer| peer.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(reasons(&with(&[]), &with(&many)).len(), MOST_PEERS);
    }
}
