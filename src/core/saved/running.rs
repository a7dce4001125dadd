//! What checks read of a pod's state and of the events about it.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Event,
    EventSeries, Node, NodeCondition, NodeStatus, ObjectReference, PodCondition, PodStatus,
};

use super::values::{message, word};
use crate::core::facts::Rollout;

pub(super) fn status(status: &PodStatus) -> PodStatus {
    let containers = |list: &Vec<ContainerStatus>| list.iter().map(container).collect::<Vec<_>>();
    PodStatus {
        phase: status.phase.clone(),
        reason: status.reason.as_deref().map(word),
        message: status.message.as_deref().map(message),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        start_time: status.start_time.clone(),
        conditions: status.conditions.as_ref().map(|list| list.iter().map(condition).collect()),
        init_container_statuses: status.init_container_statuses.as_ref().map(containers),
        container_statuses: status.container_statuses.as_ref().map(containers),
        ..PodStatus::default()
    }
}

fn condition(condition: &PodCondition) -> PodCondition {
    PodCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.as_deref().map(word),
        message: condition.message.as_deref().map(message),
        last_transition_time: condition.last_transition_time.clone(),
        ..PodCondition::default()
    }
}

fn container(container: &ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        ready: container.ready,
        started: container.started,
        restart_count: container.restart_count,
        state: container.state.as_ref().map(state),
        last_state: container.last_state.as_ref().map(state),
        ..ContainerStatus::default()
    }
}

/// Without a container's last message: it is the app's own, or the end of its log.
fn state(state: &ContainerState) -> ContainerState {
    ContainerState {
        waiting: state.waiting.as_ref().map(|waiting| ContainerStateWaiting {
            reason: waiting.reason.as_deref().map(word),
            message: waiting.message.as_deref().map(message),
        }),
        running: state.running.as_ref().map(|running| ContainerStateRunning { started_at: running.started_at.clone() }),
        terminated: state.terminated.as_ref().map(|end| ContainerStateTerminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.as_deref().map(word),
            finished_at: end.finished_at.clone(),
            ..ContainerStateTerminated::default()
        }),
    }
}

pub(super) fn rollout(rollout: &Rollout) -> Rollout {
    // As in `FailedCreate: pods "x" is forbidden: …`.
    let said = |text: &String| match text.split_once(": ") {
        Some((reason, text)) => format!("{}: {}", word(reason), message(text)),
        None => word(text),
    };
    Rollout {
        observed: rollout.observed,
        updated: rollout.updated,
        refused: rollout.refused.as_ref().map(said),
        stalled: rollout.stalled.as_ref().map(said),
    }
}

pub(super) fn node(node: &Node) -> Node {
    let condition = |condition: &NodeCondition| NodeCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.as_deref().map(word),
        ..NodeCondition::default()
    };
    let status = node.status.as_ref().map(|status| NodeStatus {
        conditions: status.conditions.as_ref().map(|list| list.iter().map(condition).collect()),
        ..NodeStatus::default()
    });
    Node { metadata: super::metadata(&node.metadata), spec: None, status }
}

pub(super) fn event(event: &Event) -> Event {
    let about = &event.involved_object;
    Event {
        involved_object: ObjectReference {
            kind: about.kind.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            ..ObjectReference::default()
        },
        reason: event.reason.as_deref().map(word),
        message: event.message.as_deref().map(message),
        type_: event.type_.clone(),
        last_timestamp: event.last_timestamp.clone(),
        event_time: event.event_time.clone(),
        series: event.series.as_ref().map(|series| EventSeries {
            last_observed_time: series.last_observed_time.clone(),
            ..EventSeries::default()
        }),
        ..Event::default()
    }
}
