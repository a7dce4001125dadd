//! What the service account may do.

use super::{AKKA, BYPASSCTL, Case, case};

pub(super) const CASES: &[Case] = &[
    case(
        "the sample's namespace in the subject",
        AKKA,
        &[("serviceaccount:shop:", "serviceaccount:default:")],
        &["rbac-subject-namespace"],
    ),
    case(
        "a subject of another account",
        AKKA,
        &[("serviceaccount:shop:my-service", "serviceaccount:shop:default")],
        &["rbac-subject"],
    ),
    case("a role without list", AKKA, &[("\"get\", \"watch\", \"list\"", "\"get\", \"watch\"")], &["rbac-verbs"]),
    case("a role for another API group", AKKA, &[("apiGroups: [\"\"]", "apiGroups: [apps]")], &["rbac-verbs"]),
    case(
        "a binding to a role of another name",
        AKKA,
        &[("kind: Role, name: pod-reader", "kind: Role, name: pods-reader")],
        &["rbac-role"],
    ),
    case(
        "a second binding to a role that is not there",
        AKKA,
        &[(
            "---\napiVersion: v1\nkind: Service\n",
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: leases, namespace: shop}\n\
             subjects: [{kind: ServiceAccount, name: my-service, namespace: shop}]\n\
             roleRef: {kind: Role, name: leases, apiGroup: rbac.authorization.k8s.io}\n\
             ---\napiVersion: v1\nkind: Service\n",
        )],
        &["rbac-role"],
    ),
    case(
        "a role that nobody is bound to",
        AKKA,
        &[
            ("name: system:serviceaccount:shop:my-service", "name: system:serviceaccount:shop:my-service\n#"),
            ("kind: RoleBinding", "kind: Binding"),
        ],
        &["rbac-role"],
    ),
    case(
        "a role for one pod by name",
        AKKA,
        &[("resources: [\"pods\"]", "resources: [\"pods\"]\n  resourceNames: [one]")],
        &["rbac-verbs"],
    ),
    case(
        "a service account that is not there",
        AKKA,
        &[("kind: ServiceAccount\nmetadata: {name: my-service", "kind: ServiceAccount\nmetadata: {name: my-services")],
        &["service-account"],
    ),
    case(
        "no token",
        AKKA,
        &[("      terminationGracePeriodSeconds: 40", "      automountServiceAccountToken: false")],
        &["service-account-token"],
    ),
    case(
        "a password in the environment",
        AKKA,
        &[("valueFrom: {secretKeyRef: {name: db, key: password}}", "value: swordfish")],
        &["secret-in-environment"],
    ),
    case(
        "a password by its short name",
        AKKA,
        &[(
            "name: DB_PASSWORD\n          valueFrom: {secretKeyRef: {name: db, key: password}}",
            "name: DB_PWD\n          value: swordfish",
        )],
        &["secret-in-environment"],
    ),
    case(
        "a password in an address",
        BYPASSCTL,
        &[(
            "CONFIG_FORCE_pekko_coordinated__shutdown_exit__jvm, value: \"on\"",
            "DB, value: \"jdbc:postgresql://orders:swordfish@db/orders\"",
        )],
        &["secret-in-environment"],
    ),
    case(
        "a password among the JVM's options",
        AKKA,
        &[("-Dnetworkaddress.cache.ttl=30", "-Djavax.net.ssl.keyStorePassword=changeit")],
        &["secret-in-environment"],
    ),
];
