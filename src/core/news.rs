//! What of a sidecar's state a user should see in `kubectl describe`: as events of its pod, and as a condition of it.
//!
//! Invariant: only changes are news, so a pod that stays unwell does not fill the namespace's events.

use std::collections::BTreeSet;

use time::{Duration, OffsetDateTime};

/// A certificate that ends sooner than this, and is not renewed, is news.
const SOON: Duration = Duration::DAY;
/// How many refused peers are told of at a time: events come second by second, and are for people.
const PEERS_AT_ONCE: usize = 8;
/// And how many in all: a pod that anybody can call must not be a way to fill the namespace's events. The rest is counted,
/// and in `/status`.
const MOST_PEERS: usize = 64;

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
    pub refused: Refused,
}

/// Refused peers, each with the reason.
pub type Refused = BTreeSet<(String, String)>;

/// Adds to those that have been told of the next ones, no more than may be told of at once.
pub fn tell_of(refused: &Refused, told: &mut Refused) {
    let room = MOST_PEERS.saturating_sub(told.len()).min(PEERS_AT_ONCE);
    let next: Vec<_> = refused.difference(told).take(room).cloned().collect();
    told.extend(next);
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
    for (peer, reason) in after.refused.difference(&before.refused) {
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
    }

    #[test]
    fn many_refused_peers_are_told_of_one_after_the_other_and_not_without_end() {
        let peers =
            |from: u32, to: u32| (from..to).map(|peer| (peer.to_string(), "denied".to_owned())).collect::<Refused>();
        let mut told = Refused::new();
        tell_of(&peers(200, 230), &mut told);
        assert_eq!(told.len(), PEERS_AT_ONCE);
        for _ in 0..3 {
            tell_of(&peers(200, 230), &mut told);
        }
        assert_eq!(told, peers(200, 230));
        for _ in 0..20 {
            // Those that sort before the ones that have been told of are told of all the same.
            tell_of(&peers(100, 230), &mut told);
        }
        assert_eq!(told.len(), MOST_PEERS);
    }
}
