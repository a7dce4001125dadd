//! What cannot be read.

use super::{AKKA, Case, MINIMAL, case};

pub(super) const CASES: &[Case] = &[
    case("a document that is no YAML", AKKA, &[("kind: ConfigMap", "kind: [ConfigMap")], &["manifest-readable"]),
    case(
        "a number where a text belongs",
        MINIMAL,
        &[("        image: my-service:latest", "        image: my-service:latest\n        env: [{name: A, value: 1}]")],
        &["manifest-readable", "workload-found"],
    ),
    case(
        "nothing that looks like a node",
        MINIMAL,
        &[
            ("containerPort: 2552", "containerPort: 9000"),
            ("containerPort: 8558", "containerPort: 9001"),
            ("name: remoting", "name: other"),
        ],
        &["workload-found"],
    ),
];
