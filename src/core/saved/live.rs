//! What pods said, as far as checks read it: who answers on a port may be anybody, and may say anything.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::seen;
use crate::core::facts::{Answer, Live, REMOVED};
use crate::core::membership::{Member, SeedNodes, View};
use crate::core::report::Observed;
use crate::core::status::Status;

pub(super) fn live(live: &Live) -> Live {
    Live {
        members: view(&live.members, |answer| View::parse(answer).map(|view| members(&view))),
        seed_nodes: view(&live.seed_nodes, |answer| SeedNodes::parse(answer).map(|seeds| seed_nodes(&seeds))),
        ready: seen(&live.ready, answer),
        alive: seen(&live.alive, answer),
        agent: seen(&live.agent, agent),
        // No check reads it.
        agent_config: Observed::Unavailable("it is not saved".to_owned()),
        clock_skew_ms: seen(&live.clock_skew_ms, |skew| *skew),
    }
}

fn view(fact: &Observed<Value>, parse: impl FnOnce(&Value) -> Result<Value, String>) -> Observed<Value> {
    match seen(fact, parse) {
        Observed::Seen(Ok(answer)) => Observed::Seen(answer),
        Observed::Seen(Err(_)) => Observed::Unavailable("what it answers is not about a cluster".to_owned()),
        Observed::Unavailable(reason) => Observed::Unavailable(reason),
    }
}

fn member(member: &Member) -> Value {
    json!({"node": member.node, "nodeUid": member.uid, "status": member.status, "roles": member.roles})
}

/// As management answers.
fn members(view: &View) -> Value {
    let unreachable = view.unreachable.iter().map(|one| json!({"node": one.node, "observedBy": one.observed_by}));
    json!({
        "selfNode": view.self_node, "leader": view.leader, "oldest": view.oldest,
        "oldestPerRole": view.oldest_per_role,
        "members": view.members.iter().map(member).collect::<Vec<_>>(),
        "unreachable": unreachable.collect::<Vec<_>>(),
    })
}

fn seed_nodes(seeds: &SeedNodes) -> Value {
    json!({"selfNode": seeds.self_node, "seedNodes": seeds.members.iter().map(member).collect::<Vec<_>>()})
}

/// Names of health checks stay; what else an app says of its health (an exception's message, an address) goes.
fn answer(answer: &Answer) -> Answer {
    let body = answer.body.trim();
    let of_a_class = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '$' | '_' | '-' | ',' | ' ');
    let names = body.strip_prefix("Not Healthy: ").is_some_and(|names| names.chars().all(of_a_class));
    let body = if body.is_empty() || body == "OK" || names { body } else { REMOVED };
    Answer { status: answer.status, body: body.to_owned() }
}

/// The sidecar's own words; of a stranger's, that they are one's.
fn agent(answer: &Value) -> Value {
    let status = Status::deserialize(answer).ok().filter(|status| status.readiness.is_some());
    status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or(Value::Null)
}
