//! Updates, and how nodes leave.

use super::{AKKA, Case, MINIMAL, case};

pub(super) const CASES: &[Case] = &[
    case(
        "an update takes a node away first",
        AKKA,
        &[("maxUnavailable: 0", "maxUnavailable: 1")],
        &["rollout-unavailable"],
    ),
    case("a quarter of eight by default", MINIMAL, &[("replicas: 3", "replicas: 8")], &["rollout-unavailable"]),
    case(
        "all nodes stop at once",
        AKKA,
        &[("type: RollingUpdate\n    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}", "type: Recreate")],
        &["rollout-recreate"],
    ),
    case("all nodes are doubled at once", AKKA, &[("maxSurge: 1,", "maxSurge: 100%,")], &["rollout-surge"]),
    case("no time to leave", AKKA, &[("PeriodSeconds: 40", "PeriodSeconds: 5")], &["grace-period"]),
    case("a JVM that stays", AKKA, &[("exit-jvm = on", "exit-jvm = off")], &["exit-jvm"]),
    case("a node that tries for ever", AKKA, &[("join-seed-nodes = 60s", "join-seed-nodes = off")], &["join-timeout"]),
    case(
        "a budget for other pods",
        AKKA,
        &[(
            "  maxUnavailable: 1\n  selector: {matchLabels: {app: my-service}}",
            "  maxUnavailable: 1\n  selector: {matchLabels: {app: other}}",
        )],
        &["disruption-budget"],
    ),
    case(
        "a budget that lets none go",
        AKKA,
        &[("  maxUnavailable: 1\n  selector", "  minAvailable: 3\n  selector")],
        &["disruption-budget-blocks"],
    ),
];
