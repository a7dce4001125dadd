//! Checks on what the pods of a running cluster say, and on what a node and a namespace allow.

use super::Entry;
use crate::core::report::Severity::{Error, Info, Warning};

pub(super) const LIVE: &[Entry] = &[
    Entry {
        code: "cluster-readable",
        severity: Info,
        title: "all that the checks need may be read",
        why: "What may not be read is not judged: silence about it is no health",
        fix: "use an account with the least role that the reference names",
    },
    Entry {
        code: "management-answers",
        severity: Error,
        title: "management tells of the cluster",
        why: "Bootstrap's contact points ask the same port: a pod whose management is silent is found by nobody",
        fix: "start management with its cluster routes, on the port that the manifest names",
    },
    Entry {
        code: "member-joined",
        severity: Error,
        title: "the pod has joined a cluster",
        why: "A pod that is in no cluster for more than two minutes waits for something that will not come by itself",
        fix: "look at discovery, rights and the sidecar of the same pod",
    },
    Entry {
        code: "app-ready",
        severity: Warning,
        title: "/ready says OK",
        why: "Kubernetes sends the pod no traffic until it does",
        fix: "see which check of /ready fails, and the pod's log",
    },
    Entry {
        code: "one-cluster",
        severity: Error,
        title: "all pods are in one cluster",
        why: "Two clusters have two of each singleton and shard, and never merge",
        fix: "keep the larger one, restart the others' pods once they reach it, and ask for as many contact points as there are replicas",
    },
    Entry {
        code: "members-reachable",
        severity: Error,
        title: "every member is reachable",
        why: "Nobody joins or leaves while a member is unreachable",
        fix: "find out whether its pod is gone, or remoting is not let through in one direction",
    },
    Entry {
        code: "members-up",
        severity: Warning,
        title: "every member is Up",
        why: "Who stays Joining or WeaklyUp waits for somebody who is unreachable",
        fix: "look at who is unreachable; Leaving and Exiting take seconds",
    },
    Entry {
        code: "leader-agreed",
        severity: Warning,
        title: "all see the same leader",
        why: "Different leaders mean that gossip has not converged",
        fix: "ask again; then look at who sees whom as unreachable",
    },
    Entry {
        code: "members-are-pods",
        severity: Warning,
        title: "every member is one of the pods",
        why: "Members without a pod block the others until they are downed, or are a cluster's part elsewhere",
        fix: "see where their address belongs, and down those that are gone",
    },
    Entry {
        code: "pods-are-members",
        severity: Error,
        title: "every running pod is a member",
        why: "A pod outside of the cluster serves nothing, or serves what others serve too",
        fix: "set coordinated-shutdown.exit-jvm, so that whoever was downed starts anew",
    },
    Entry {
        code: "peers-accepted",
        severity: Error,
        title: "no connection of a pod or a member was refused lately",
        why: "A refused connection is a member that cannot talk to another",
        fix: "read the reason: the peer's identity, its certificate, its mode or its limits",
    },
    Entry {
        code: "strangers-refused",
        severity: Info,
        title: "nobody but pods and members was refused lately",
        why: "Somebody who is no pod here and no member dials remoting: a scanner, a probe, or a cluster elsewhere",
        fix: "find out who it is; if it is a member elsewhere, --allow its identity",
    },
    Entry {
        code: "plaintext-left",
        severity: Warning,
        title: "every connection is encrypted",
        why: "Whoever is on the way reads and changes what is said in plaintext",
        fix: "give the peers a sidecar, then go on to --mode strict",
    },
    Entry {
        code: "clocks-agree",
        severity: Warning,
        title: "the pod's clock and ours agree",
        why: "Certificates are not yet valid, or expired already, for one of two clocks",
        fix: "set the node's clock by NTP",
    },
    Entry {
        code: "agent-answers",
        severity: Error,
        title: "the sidecar answers",
        why: "Nobody knows what a silent sidecar does with remoting",
        fix: "look at its log, and at the admin port",
    },
    Entry {
        code: "agent-versions",
        severity: Warning,
        title: "every sidecar is of one version",
        why: "One of them has faults that another has not",
        fix: "finish the rollout",
    },
    Entry {
        code: "agent-everywhere",
        severity: Warning,
        title: "every pod of the cluster has a sidecar",
        why: "Those with one in strict mode refuse those without, and the others speak plaintext",
        fix: "inject the rest, and restart them",
    },
];

pub(super) const PRE: &[Entry] = &[
    Entry {
        code: "pre-net-admin",
        severity: Error,
        title: "init may program rules here",
        why: "Without NET_ADMIN there are no rules, and remoting goes where the mesh sends it",
        fix: "add NET_ADMIN to the init container, or let a CNI plugin make the rules",
    },
    Entry {
        code: "pre-backend",
        severity: Error,
        title: "the kernel has a packet filter that init can program",
        why: "Without one no rules can be made",
        fix: "load the modules on the node",
    },
    Entry {
        code: "pre-pod-security",
        severity: Error,
        title: "the namespace admits a pod whose init container has NET_ADMIN",
        why: "Pods of another level are refused when they are made",
        fix: "label the namespace privileged for enforcement, or let a CNI plugin make the rules",
    },
    Entry {
        code: "pre-path",
        severity: Info,
        title: "the strongest way to the rules, and why there is no stronger one",
        why: "An init container proves its own rules; a CNI plugin does so for pods that may have no capability; without either there \
              are no rules, and what is left is weaker, as the table says. Management is never encrypted, and on every path the mesh's \
              policies and its telemetry do not see what bypasses it",
        fix: "allow the init container NET_ADMIN, or install the CNI plugin, or take the next path of the table",
    },
    Entry {
        code: "pre-native-sidecar",
        severity: Warning,
        title: "the API server knows native sidecars",
        why: "A classic sidecar is stopped together with the app, and starts beside it",
        fix: "upgrade to Kubernetes 1.29 or later, or inject with --sidecar classic",
    },
];
