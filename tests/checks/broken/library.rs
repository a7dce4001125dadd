//! Apps without rules that are told something else than their sidecar.

use super::{Case, PORTS, case};

const CODE: &[&str] = &["agent-library"];
/// Before this another variable of the app goes.
const HERE: &str = "        - name: BYPASSCTL_SHIM_PORTS\n";
/// Before this the app's command goes.
const IMAGE: &str = "        image: my-service:latest\n";

pub(super) const CASES: &[Case] = &[
    case(
        "rules by the node beside --path ports",
        PORTS,
        &[("        bypassctl.io/injected: ", "        bypassctl.io/rules: capture\n        bypassctl.io/injected: ")],
        &["agent-complete"],
    ),
    case("a library that nobody preloads", PORTS, &[("name: LD_PRELOAD", "name: OTHER")], &["agent-complete"]),
    case("other ports for the library", PORTS, &[("value: \"2552\"", "value: \"9999\"")], CODE),
    case("more ports for the library", PORTS, &[("value: \"2552\"", "value: 2552,25520")], CODE),
    case("no list of ports for the library", PORTS, &[("value: \"2552\"", "value: 2552;2553")], CODE),
    case("other ports for the sidecar", PORTS, &[("--remoting-port=2552,", "--remoting-port=2552-2553,")], CODE),
    case(
        "another sidecar for the library",
        PORTS,
        &[(
            HERE,
            "        - {name: BYPASSCTL_SHIM_AGENT_PORT, value: \"9999\"}\n        - name: BYPASSCTL_SHIM_PORTS\n",
        )],
        CODE,
    ),
    case("another port of the sidecar", PORTS, &[("--path=ports,", "--path=ports, --outbound-port=20000,")], CODE),
    case(
        "a JVM that starts without the library",
        PORTS,
        &[("-agentpath:/var/run/bypassctl/shim/libbypassctl_preload.so ", "")],
        CODE,
    ),
    case(
        "a second LD_PRELOAD without the library",
        PORTS,
        &[(HERE, "        - {name: LD_PRELOAD, value: /opt/jemalloc.so}\n        - name: BYPASSCTL_SHIM_PORTS\n")],
        CODE,
    ),
    case("UDP", PORTS, &[("-agentpath:", "-Dakka.remote.artery.transport=aeron-udp -agentpath:")], CODE),
    case(
        "every address by a variable that beats ours",
        PORTS,
        &[(
            HERE,
            "        - {name: JDK_JAVA_OPTIONS, value: -Dakka.remote.artery.bind.hostname=0.0.0.0}\n        - name: BYPASSCTL_SHIM_PORTS\n",
        )],
        CODE,
    ),
    case(
        "every address by a variable that a start script takes",
        PORTS,
        &[(
            HERE,
            "        - {name: JAVA_OPTS, value: -Dakka.remote.artery.bind.hostname=0.0.0.0}\n        - name: BYPASSCTL_SHIM_PORTS\n",
        )],
        CODE,
    ),
    case(
        "every address by the command line",
        PORTS,
        &[(
            IMAGE,
            "        image: my-service:latest\n        command: [java, -Dpekko.remote.artery.bind.hostname=0.0.0.0, -jar, app.jar]\n",
        )],
        CODE,
    ),
];
