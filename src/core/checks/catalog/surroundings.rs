//! Checks on what stands around the pods.

use super::Entry;
use crate::core::report::Severity::{Error, Info, Warning};

pub(super) const READING: &[Entry] = &[
    Entry {
        code: "manifest-readable",
        severity: Error,
        title: "every document can be read as the Kubernetes object that it says it is",
        why: "What cannot be read was not checked; everything else was. Of most of it the API server says the same; of a key \
              that stands twice kubectl takes the last one, so that the other does nothing",
        fix: "correct the document; render templates first (helm template, kustomize build) and pipe the result in",
    },
    Entry {
        code: "something-judged",
        severity: Error,
        title: "at least one check came to a result",
        why: "Where every check was skipped or suppressed, or nothing was there to look at, nobody knows how anything stands: \
              silence is no health",
        fix: "see with --all why checks were skipped; select what you mean; name the ports of your nodes. Where nothing to \
              judge is what you expect, --suppress something-judged",
    },
    Entry {
        code: "workload-found",
        severity: Info,
        title: "something looks like nodes of an Akka or Pekko cluster",
        why: "A workload is taken for one by its ports (2552, 25520, 17355, 8558, 7626, or those asked for), its AKKA_ or \
              PEKKO_ settings, or an agent; the rest is not judged",
        fix: "name the ports with --remoting-port and --management-port if yours are others",
    },
];

pub(super) const RIGHTS: &[Entry] = &[
    Entry {
        code: "rbac-pods",
        severity: Error,
        title: "the pods' service account may list pods",
        why: "Discovery by the Kubernetes API asks for the pods of the namespace; without the right it finds no contact \
              point, and no cluster forms",
        fix: "add a Role with list on pods and a RoleBinding to the pods' service account",
    },
    Entry {
        code: "rbac-subject-namespace",
        severity: Error,
        title: "the binding's subject is of the pods' own namespace",
        why: "system:serviceaccount:NAMESPACE:NAME is one word, and the namespace inside is easily forgotten when a sample \
              is copied: the right goes to somebody else",
        fix: "write the pods' namespace in the subject",
    },
    Entry {
        code: "rbac-subject",
        severity: Error,
        title: "the binding's subject is the pods' service account",
        why: "The right to read pods was given to another account than the one that the pods use",
        fix: "name the pods' serviceAccountName in the binding, or use the bound account in the pods",
    },
    Entry {
        code: "rbac-verbs",
        severity: Error,
        title: "the bound role has list on pods of the core group",
        why: "Discovery lists pods; a role without that verb, for other resources or another API group does not let it. The \
              documentation of Akka and Pekko gives get and watch as well, which discovery does not use",
        fix: "set apiGroups [\"\"], resources [\"pods\"], verbs [\"list\"]",
    },
    Entry {
        code: "rbac-role",
        severity: Error,
        title: "the role that a binding names exists, and is bound",
        why: "A binding to a role that is not there gives no right, and the API server does not complain; a role that \
              nobody is bound to gives none either",
        fix: "correct kind and name of roleRef, or add the binding",
    },
    Entry {
        code: "service-account",
        severity: Error,
        title: "the pods' service account exists",
        why: "Pods of an account that does not exist are never created",
        fix: "create it, or correct serviceAccountName",
    },
    Entry {
        code: "service-account-token",
        severity: Error,
        title: "the pods get the service account's token",
        why: "Discovery reads the token from its file; without it the API server answers nobody",
        fix: "remove automountServiceAccountToken: false, from the pod or its account, or project a token",
    },
    Entry {
        code: "secret-in-environment",
        severity: Warning,
        title: "no secret stands in the environment or the command as plain text",
        why: "Whoever may read pods, and every node of the cluster may, reads it there",
        fix: "take it from a Secret with secretKeyRef, or mount it as a file",
    },
];

pub(super) const DISCOVERY: &[Entry] = &[
    Entry {
        code: "bootstrap-service-name",
        severity: Error,
        title: "the pods carry the label that bootstrap looks for",
        why: "Discovery by the Kubernetes API selects pods by app=SERVICE-NAME unless told otherwise; where no pod has that \
              label no contact point is found",
        fix: "set the pods' label app to the value of AKKA_CLUSTER_BOOTSTRAP_SERVICE_NAME, or the other way round",
    },
    Entry {
        code: "discovery-strangers",
        severity: Warning,
        title: "bootstrap's label selects nodes of the cluster alone",
        why: "Every pod with the label is asked whether it knows a cluster; one that has no management never answers, and \
              until it does a new cluster may not be founded",
        fix: "give the other workload another label app",
    },
    Entry {
        code: "selector-matches",
        severity: Error,
        title: "a workload's selector matches its own pods",
        why: "The API server refuses the workload",
        fix: "give selector.matchLabels and the template's labels the same values",
    },
    Entry {
        code: "service-selects",
        severity: Warning,
        title: "a Service for remoting or management selects pods",
        why: "A Service that selects nothing has no endpoints: discovery by DNS finds nobody",
        fix: "give its selector the labels of the pod template",
    },
    Entry {
        code: "contact-points",
        severity: Error,
        title: "there are as many pods as bootstrap requires contact points",
        why: "Until it has found that many (2 where nothing is set) no node founds a cluster, so none ever forms",
        fix: "raise replicas, or lower required-contact-point-nr",
    },
    Entry {
        code: "contact-points-default",
        severity: Warning,
        title: "there are as many pods as bootstrap requires where nothing is set",
        why: "Where the app's own settings (in its image) do not lower it, no node founds a cluster until it has found two",
        fix: "raise replicas, or set required-contact-point-nr where it can be seen",
    },
    Entry {
        code: "contact-points-split",
        severity: Warning,
        title: "more than one contact point is required where there are several pods",
        why: "With one required, two nodes that start together and do not see each other found two clusters",
        fix: "set required-contact-point-nr to 2 at least, better to the number of replicas at the first start",
    },
    Entry {
        code: "discovery-dns",
        severity: Warning,
        title: "discovery by DNS sees pods that are not ready",
        why: "Nodes become ready by joining, and a Service hides what is not ready: the first nodes never find each other",
        fix: "use a headless Service of its own with publishNotReadyAddresses: true, or discovery by kubernetes-api",
    },
    Entry {
        code: "jvm-dns",
        severity: Warning,
        title: "the JVM does not keep addresses for ever",
        why: "Pods come back with other addresses; a JVM that caches names without an end dials the old ones",
        fix: "set networkaddress.cache.ttl to some seconds",
    },
];

pub(super) const NETWORK: &[Entry] = &[
    Entry {
        code: "network-policy-remoting",
        severity: Error,
        title: "network policies let remoting through between the pods, out and in",
        why: "A policy that selects a pod forbids what it does not name; nodes that find each other still cannot join",
        fix: "allow the remoting port from and to pods of the same label",
    },
    Entry {
        code: "network-policy-management",
        severity: Error,
        title: "network policies let management through between the pods, out and in",
        why: "Bootstrap asks each contact point over management's port; without it no cluster is found or founded",
        fix: "allow the management port from and to pods of the same label",
    },
    Entry {
        code: "network-policy-dns",
        severity: Warning,
        title: "network policies let the pods ask DNS",
        why: "With an egress policy names are resolved only if port 53 is allowed; the API server's name is one of them",
        fix: "allow port 53, UDP and TCP, to the cluster's DNS",
    },
    Entry {
        code: "network-policy-api",
        severity: Error,
        title: "network policies let the pods ask the API server",
        why: "Discovery by the Kubernetes API needs it, and it is no pod: rules that name pods alone do not let it through",
        fix: "allow ports 443 and 6443 without naming pods, or by ipBlock",
    },
    Entry {
        code: "network-policy-mesh",
        severity: Warning,
        title: "network policies let the sidecar ask the mesh's control plane",
        why: "Istio's proxy gets certificates and configuration from port 15012 of istiod, and is not ready without",
        fix: "allow port 15012 to the namespace istio-system",
    },
];

pub(super) const ROLLOUT: &[Entry] = &[
    Entry {
        code: "rollout-unavailable",
        severity: Warning,
        title: "a rolling update takes no node away before a new one is ready",
        why: "With fewer nodes than wanted, shards and singletons move twice, and a small cluster loses its majority",
        fix: "set strategy.rollingUpdate to maxSurge 1 and maxUnavailable 0",
    },
    Entry {
        code: "rollout-recreate",
        severity: Warning,
        title: "an update does not stop all nodes at once",
        why: "Recreate ends the whole cluster with all that is in its memory, and forms another",
        fix: "use RollingUpdate",
    },
    Entry {
        code: "rollout-surge",
        severity: Info,
        title: "a rolling update adds nodes few at a time",
        why: "As many new nodes as there are old ones at once move every shard at once",
        fix: "set maxSurge to 1",
    },
    Entry {
        code: "grace-period",
        severity: Warning,
        title: "a node has time to leave the cluster",
        why: "Leaving hands over shards and singletons; a node that is killed on the way is unreachable for its peers, who \
              wait before they take over",
        fix: "set terminationGracePeriodSeconds to 30 at least",
    },
    Entry {
        code: "exit-jvm",
        severity: Warning,
        title: "a node that was removed from the cluster ends its process",
        why: "A JVM that stays up after its actor system has ended is neither a member nor restarted",
        fix: "set coordinated-shutdown.exit-jvm = on",
    },
    Entry {
        code: "join-timeout",
        severity: Warning,
        title: "a node that cannot join starts again",
        why: "A node that goes on trying for ever with what it found at its start never learns of another cluster",
        fix: "set cluster.shutdown-after-unsuccessful-join-seed-nodes = 60s",
    },
    Entry {
        code: "disruption-budget",
        severity: Info,
        title: "a disruption budget keeps most of the nodes",
        why: "Draining nodes of Kubernetes may otherwise take several members at once",
        fix: "add a PodDisruptionBudget with maxUnavailable 1",
    },
    Entry {
        code: "disruption-budget-blocks",
        severity: Warning,
        title: "a disruption budget lets one pod go",
        why: "A budget that allows none blocks the draining of nodes, until somebody deletes the pod by force",
        fix: "use maxUnavailable: 1",
    },
];

pub(super) const RUNNING: &[Entry] = &[
    Entry {
        code: "pods-wanted",
        severity: Error,
        title: "as many pods were made as are wanted, of the present template",
        why: "Who makes the pods is refused (a quota, Pod Security, a webhook), or has not been asked for any",
        fix: "read the reason in the events of the workload and of its ReplicaSet",
    },
    Entry {
        code: "pods-scaled-down",
        severity: Info,
        title: "pods are wanted at all",
        why: "A workload that is scaled to 0 has no nodes; that may be meant",
        fix: "scale it up if it is not",
    },
    Entry {
        code: "pods-running",
        severity: Error,
        title: "the pod's containers run",
        why: "A pod that is not scheduled, pulled, configured or started is in no cluster, whatever its manifest says",
        fix: "read what Kubernetes says of it, and the log of the container that ended",
    },
    Entry {
        code: "pods-ready",
        severity: Error,
        title: "Kubernetes calls the pod ready",
        why: "It gets no traffic, and a rollout waits for it; where management itself says OK, the probe does not reach it",
        fix: "read which probe or readiness gate fails, and what is in the way of the kubelet",
    },
    Entry {
        code: "pods-restart",
        severity: Info,
        title: "no container was restarted lately",
        why: "Each restart is a member that left without a word, and another that joins",
        fix: "read the log of the container that ended: out of memory (exit code 137), a liveness probe (143), or its own fault",
    },
];
