//! Ports that do not agree.

use super::{AKKA, BYPASSCTL, Case, ISTIO, case};

pub(super) const CASES: &[Case] = &[
    case(
        "another remoting port in the ConfigMap",
        AKKA,
        &[("port = 2552", "port = 25520")],
        &["remoting-port-agreed", "network-policy-remoting"],
    ),
    case(
        "another management port by -D",
        AKKA,
        &[("http.port=8558", "http.port=8559")],
        &["management-port-agreed", "network-policy-management"],
    ),
    case(
        "the agent left at Akka's ports beside Pekko",
        BYPASSCTL,
        &[(", --preset, pekko", ""), ("BYPASSCTL_PRESET", "OTHER_PRESET")],
        &["remoting-port-agreed", "management-port-agreed"],
    ),
    case(
        "one agent container left at Akka's ports",
        BYPASSCTL,
        &[(", --preset, pekko", "")],
        &["remoting-port-agreed", "management-port-agreed", "agent-ports-agreed"],
    ),
    case(
        "Pekko's wrong port for the agent",
        BYPASSCTL,
        &[("--preset, pekko", "--remoting-port, '7355', --management-port, '7626'")],
        &["remoting-port-agreed", "agent-ports-agreed", "pekko-port"],
    ),
    case("a port that is none", AKKA, &[("containerPort: 8080", "containerPort: 80800")], &["container-ports"]),
    case(
        "two ports of one name",
        AKKA,
        &[("{name: http, containerPort: 8080}", "{name: remoting, containerPort: 8080}")],
        &["container-ports"],
    ),
    case("Pekko's wrong port in the annotation", ISTIO, &[("\"2552,8558\"", "\"7355,2552,8558\"")], &["pekko-port"]),
];
