//! What pods say of themselves: management and the sidecar's admin port, all pods at once within bounds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use time::OffsetDateTime;

use crate::cluster::client::Cluster;
use crate::cluster::pods::{is_node, ports};
use crate::cluster::route::Route;
use crate::cluster::selection::Selection;
use crate::core::config::ClusterPorts;
use crate::core::facts::{self, Live, key};
use crate::core::report::Observed;
use crate::http::Answer;

/// Pods that are asked at a time.
const AT_A_TIME: usize = 32;
/// How long all of it may take.
const ALL: Duration = Duration::from_secs(20);
/// Bytes of all pods' answers: 200 pods that each tell of 200 members take 6 MB.
const MOST_TOGETHER: usize = 32 << 20;
/// What is kept of a text that is no JSON, in characters.
const LONGEST: usize = 2000;

/// Asks every pod that is a node of a cluster, or was selected as one; the answers by [`key`].
pub async fn ask(
    cluster: &Cluster,
    pods: &[Pod],
    selection: &Selection,
    cluster_ports: &ClusterPorts,
) -> BTreeMap<String, Live> {
    let end = tokio::time::Instant::now() + ALL;
    let kept = AtomicUsize::new(0);
    let asked = pods.iter().filter(|pod| *selection != Selection::All || is_node(pod, cluster_ports));
    let answers = asked.map(async |pod| {
        let live = match silent(pod) {
            Some(reason) => unavailable(&reason),
            None => tokio::time::timeout_at(end, one(cluster, pod, cluster_ports, &kept))
                .await
                .unwrap_or_else(|_| unavailable(&format!("not answered within {} seconds", ALL.as_secs()))),
        };
        (key(&pod.metadata), live)
    });
    futures_util::stream::iter(answers).buffer_unordered(AT_A_TIME).collect().await
}

/// Why a pod cannot be asked.
fn silent(pod: &Pod) -> Option<String> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    (phase != "Running").then(|| format!("the pod is {phase}"))
}

fn unavailable(reason: &str) -> Live {
    Live {
        members: Observed::Unavailable(reason.to_owned()),
        seed_nodes: Observed::Unavailable(reason.to_owned()),
        ready: Observed::Unavailable(reason.to_owned()),
        alive: Observed::Unavailable(reason.to_owned()),
        agent: Observed::Unavailable(reason.to_owned()),
        agent_config: Observed::Unavailable(reason.to_owned()),
        clock_skew_ms: Observed::Unavailable(reason.to_owned()),
    }
}

async fn one(cluster: &Cluster, pod: &Pod, cluster_ports: &ClusterPorts, kept: &AtomicUsize) -> Live {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let ports = ports(pod, cluster_ports);
    let management = async {
        let mut route = Route::new(cluster, name, ports.management);
        let members = route.get("/cluster/members/").await;
        let seed_nodes = route.get("/bootstrap/seed-nodes").await;
        let (alive, skew) = timed(&mut route, "/alive").await;
        (members, seed_nodes, alive, route.get("/ready").await, skew)
    };
    let agent = async {
        let mut route = Route::new(cluster, name, ports.agent?);
        let status = route.get("/status").await;
        Some((status, timed(&mut route, "/config").await))
    };
    let ((members, seed_nodes, alive, ready, management_skew), agent) = tokio::join!(management, agent);
    let none = || "the pod has no bypassctl container".to_owned();
    let (agent, agent_config, agent_skew) = match agent {
        Some((status, (config, skew))) => {
            (json("/status", within(kept, status)), json("/config", within(kept, config)), skew)
        }
        None => (Observed::Unavailable(none()), Observed::Unavailable(none()), None),
    };
    let skew = agent_skew.or(management_skew);
    Live {
        members: json("/cluster/members/", within(kept, members)),
        seed_nodes: json("/bootstrap/seed-nodes", within(kept, seed_nodes)),
        ready: text(ready),
        alive: text(alive),
        agent,
        agent_config,
        clock_skew_ms: skew
            .map_or_else(|| Observed::Unavailable("no answer says what time it is".to_owned()), Observed::Seen),
    }
}

/// The answer, and by how many milliseconds its clock is ahead of ours; not for the first request, which opens the way.
async fn timed(route: &mut Route<'_>, path: &str) -> (Result<Answer, String>, Option<i64>) {
    let before = OffsetDateTime::now_utc();
    let answer = route.get(path).await;
    let after = OffsetDateTime::now_utc();
    let date = answer.as_ref().ok().and_then(|answer| answer.date);
    (answer, date.map(|date| skew(date, before, after)))
}

/// `date` has no fractions of a second: half of one is expected.
fn skew(date: OffsetDateTime, before: OffsetDateTime, after: OffsetDateTime) -> i64 {
    let middle = before + (after - before) / 2;
    let skew: time::Duration = date + Duration::from_millis(500) - middle;
    i64::try_from(skew.whole_milliseconds()).unwrap_or(i64::MAX)
}

/// The answer, if there is room for it beside those of the other pods.
fn within(kept: &AtomicUsize, answer: Result<Answer, String>) -> Result<Answer, String> {
    let answer = answer?;
    let before = kept.fetch_add(answer.body.len(), Ordering::Relaxed);
    if before.saturating_add(answer.body.len()) <= MOST_TOGETHER {
        return Ok(answer);
    }
    Err(format!("the pods together answer more than {} MiB, and this answer is left out", MOST_TOGETHER >> 20))
}

fn json(path: &str, answer: Result<Answer, String>) -> Observed<Value> {
    match answer {
        Err(reason) => Observed::Unavailable(reason),
        Ok(answer) if !answer.status.is_success() => {
            Observed::Unavailable(format!("{path} answered {}", answer.status))
        }
        Ok(answer) => match serde_json::from_str(&answer.body) {
            Ok(value) => Observed::Seen(value),
            Err(error) => Observed::Unavailable(format!("{path} answered no JSON: {error}")),
        },
    }
}

fn text(answer: Result<Answer, String>) -> Observed<facts::Answer> {
    match answer {
        Err(reason) => Observed::Unavailable(reason),
        Ok(answer) => {
            let body = answer.body.chars().take(LONGEST).collect();
            Observed::Seen(facts::Answer { status: answer.status.as_u16(), body })
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn half_of_the_round_trip_and_of_a_second_are_taken_off() {
        let before = datetime!(2026-11-22 18:00:00.0 UTC);
        let after = datetime!(2026-11-22 18:00:00.4 UTC);
        assert_eq!(skew(datetime!(2026-11-22 18:00:00 UTC), before, after), 300);
        assert_eq!(skew(datetime!(2026-11-22 18:00:10 UTC), before, after), 10300);
    }

    #[test]
    fn an_answer_that_is_none_says_so_without_a_stranger_s_words() {
        let answer = |status: StatusCode, body: &str| Ok(Answer { status, body: body.to_owned(), date: None });
        assert_eq!(json("/x", answer(StatusCode::OK, "{\"a\":1}")), Observed::Seen(serde_json::json!({"a": 1})));
        let Observed::Unavailable(reason) = json("/x", answer(StatusCode::NOT_FOUND, "no such path")) else { panic!() };
        assert_eq!(reason, "/x answered 404 Not Found");
        let Observed::Unavailable(reason) = json("/x", answer(StatusCode::OK, "<html>")) else { panic!() };
        assert!(reason.starts_with("/x answered no JSON"), "{reason}");
        let ready = text(answer(StatusCode::INTERNAL_SERVER_ERROR, "Not Healthy: cluster"));
        assert_eq!(ready, Observed::Seen(facts::Answer { status: 500, body: "Not Healthy: cluster".to_owned() }));
    }

    #[test]
    fn all_pods_together_answer_within_bounds() {
        let kept = AtomicUsize::new(0);
        let answer = || Ok(Answer { status: StatusCode::OK, body: "x".repeat(MOST_TOGETHER / 2), date: None });
        assert!(within(&kept, answer()).is_ok() && within(&kept, answer()).is_ok());
        assert!(within(&kept, answer()).unwrap_err().contains("more than 32 MiB"));
    }
}
