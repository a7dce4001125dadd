//! Checks on a pod's template.

use super::Entry;
use crate::core::report::Severity::{Error, Info, Warning};

pub(super) const PORTS: &[Entry] = &[
    Entry {
        code: "container-ports",
        severity: Error,
        title: "the app's ports are ports, each with a name of its own",
        why: "The API server refuses a port above 65535 and a name that two ports have",
        fix: "correct the container's ports",
    },
    Entry {
        code: "remoting-port-agreed",
        severity: Error,
        title: "everything that names the remoting port names the same one",
        why: "Nodes dial each other on the port that the app announces; rules and containers' ports for another one do \
              nothing, so remoting goes through the mesh and joining fails",
        fix: "settle on one port in artery.canonical.port, the container's ports, and --remoting-port (or --preset) of both \
              agent containers",
    },
    Entry {
        code: "management-port-agreed",
        severity: Error,
        title: "everything that names the management port names the same one",
        why: "Bootstrap asks its contact points on this port, and the kubelet its probes; where they disagree no cluster is \
              found, or a healthy pod is killed",
        fix: "settle on one port in management.http.port, the container's ports, the probes, and --management-port (or \
              --preset) of the agent",
    },
    Entry {
        code: "pekko-port",
        severity: Error,
        title: "port 7355 is not taken for Pekko's remoting port",
        why: "Artery of Pekko listens on 17355; a page of its documentation excludes 7355 from the mesh, which leaves \
              remoting inside it",
        fix: "write 17355, or set pekko.remote.artery.canonical.port to what you want",
    },
];

pub(super) const PROBES: &[Entry] = &[
    Entry {
        code: "probe-readiness",
        severity: Warning,
        title: "the app has a readiness probe",
        why: "Without one a pod gets traffic, and a rolling update goes on, before the node has joined",
        fix: "add httpGet /ready on the management port",
    },
    Entry {
        code: "probe-liveness",
        severity: Info,
        title: "the app has a liveness probe",
        why: "Without one a JVM that hangs stays in the cluster as unreachable until somebody looks",
        fix: "add httpGet /alive on the management port",
    },
    Entry {
        code: "probe-patience",
        severity: Warning,
        title: "the kubelet waits long enough before it kills a starting node",
        why: "Forming a cluster takes long: contact points have to be found and to agree. A node that is killed meanwhile \
              makes the others begin again. Management's /alive is well as soon as management listens, so that a probe of \
              it needs 20 s; any other needs a minute",
        fix: "let the liveness probe ask /alive of management, with initialDelaySeconds 20, periodSeconds 10 and \
              failureThreshold 10, or add a startup probe",
    },
    Entry {
        code: "probe-port",
        severity: Error,
        title: "probes ask a port that the container has",
        why: "A probe that asks a port on which nobody listens never succeeds: a readiness probe keeps the pod from getting \
              ready, a liveness or startup probe has it killed again and again",
        fix: "use the management port, by its number or by the name that the container's ports give it",
    },
    Entry {
        code: "probe-path",
        severity: Warning,
        title: "readiness asks /ready, and liveness /alive",
        why: "/ready is not well while a node joins or peers are missing; as a liveness probe it kills nodes just when the \
              cluster needs them",
        fix: "swap the paths",
    },
    Entry {
        code: "probe-remoting",
        severity: Warning,
        title: "no probe dials the remoting port",
        why: "A bare connection proves nothing about remoting: with the agent it reaches the sidecar, not the app, and is \
              logged as a peer that says nothing",
        fix: "ask /ready of management, and the sidecar's /ready on its admin port",
    },
];

pub(super) const MESH: &[Entry] = &[
    Entry {
        code: "mesh-annotation-place",
        severity: Error,
        title: "annotations for the mesh are on the pod template",
        why: "A mesh reads the pod's annotations alone; on the Deployment they do nothing, and nobody says so",
        fix: "move them to spec.template.metadata.annotations",
    },
    Entry {
        code: "mesh-outbound",
        severity: Error,
        title: "outgoing remoting and management are kept from the mesh",
        why: "Nodes dial each other by pod IP; a mesh that captures that sends it elsewhere or not at all, so nodes do not \
              join, or lose each other when a proxy restarts",
        fix: "add the agent to the pod, or exclude both ports with the mesh's annotation",
    },
    Entry {
        code: "mesh-inbound",
        severity: Warning,
        title: "arriving remoting and management are kept from the mesh",
        why: "What the sender's side keeps from the mesh arrives as plaintext; a mesh in strict mode refuses it, so the \
              cluster breaks on the day on which strict mode is switched on",
        fix: "add the agent to the pod, or exclude both ports (Istio: excludeInboundPorts, or an includeInboundPorts without \
              them; ports that are left out of the container's ports are captured all the same)",
    },
    Entry {
        code: "mesh-agent-conflict",
        severity: Warning,
        title: "the mesh's annotations do not contradict the agent's rules",
        why: "The agent's rules win, so such an annotation misleads whoever reads it, and names other ports than the ones \
              that really bypass the mesh",
        fix: "remove the annotation, or give it the agent's ports",
    },
    Entry {
        code: "mesh-mtls-lost",
        severity: Warning,
        title: "remoting that bypasses the mesh is encrypted by somebody",
        why: "The exclusion takes remoting out of the mesh's mutual TLS: everything that actors say to each other is \
              plaintext, and whoever reaches the port can join",
        fix: "add `bypassctl proxy`, or set artery.transport = tls-tcp",
    },
    Entry {
        code: "mesh-ambient",
        severity: Info,
        title: "the pod's mesh needs a bypass",
        why: "Istio ambient carries connections between pods by address and encrypts them, so remoting works without \
              capture; the agent gives identities of its own and proof of the path, but is not needed for joining",
        fix: "decide whether you want the agent; if not, leave it out here",
    },
    Entry {
        code: "mesh-probe-rewrite",
        severity: Warning,
        title: "rewritten probes reach management where it listens",
        why: "With its legacy setting Istio's agent sends probes to localhost, where management that is bound to the pod's \
              address does not listen: the pod is never ready",
        fix: "remove REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION, or set sidecar.istio.io/rewriteAppHTTPProbers to \"false\"",
    },
    Entry {
        code: "management-reachable",
        severity: Error,
        title: "management listens where peers can reach it",
        why: "Bootstrap asks the pods' addresses; management that is bound to loopback answers nobody, so no cluster forms",
        fix: "leave management.http.hostname and bind-hostname unset, or set them to the pod's address or 0.0.0.0",
    },
];

pub(super) const AGENT: &[Entry] = &[
    Entry {
        code: "agent-complete",
        severity: Error,
        title: "the pod has both agent containers, or neither",
        why: "Rules without a sidecar refuse all remoting; a sidecar without rules is never asked",
        fix: "have `bypassctl init` and `bypassctl proxy` in one pod, or use `init --mode bypass` alone; where the node's CNI plugin \
              makes the rules, annotate the pod with bypassctl.io/rules: capture",
    },
    Entry {
        code: "agent-library",
        severity: Error,
        title: "without rules the app dials through the library, and is told the same ports as the sidecar",
        why: "What the library does not take leaves in plaintext; what it takes to another port, or of another port than the sidecar \
              has, is refused; and an app that binds more than loopback is in the sidecar's way",
        fix: "take out what is said there by hand and let `bypassctl inject --path ports` write it, or write it as docs/restricted.md says",
    },
    Entry {
        code: "agent-order",
        severity: Error,
        title: "the init container comes before the native sidecar",
        why: "Init containers run in their order, and the sidecar is ready only when the rules stand: the other way round \
              the pod waits for itself. The order beside the mesh's own init container does not matter",
        fix: "put bypassctl-init above bypassctl in initContainers",
    },
    Entry {
        code: "agent-holds-pod",
        severity: Error,
        title: "the sidecar among the init containers does not hold the pod up",
        why: "An init container without restartPolicy: Always has to end before the next one starts, and a proxy never ends: \
              the app is never started",
        fix: "give it restartPolicy: Always (Kubernetes 1.29), or make it a plain container",
    },
    Entry {
        code: "agent-native-sidecar",
        severity: Warning,
        title: "the sidecar is a native one",
        why: "A plain container is stopped at the same time as the app, which still has to leave the cluster: its peers see \
              it vanish. It also starts after the app, and keeps a Job from ending",
        fix: "move it to initContainers with restartPolicy: Always (Kubernetes 1.29), or at least give it a preStop sleep",
    },
    Entry {
        code: "agent-ports-agreed",
        severity: Error,
        title: "init and proxy are given the same ports",
        why: "The rules send connections to ports on which the sidecar does not listen: all remoting is refused",
        fix: "give both the same --preset, --remoting-port, --outbound-port and --inbound-port",
    },
    Entry {
        code: "agent-port-free",
        severity: Error,
        title: "no other container has a port of the agent's",
        why: "Containers of a pod share their ports; whoever comes second cannot listen",
        fix: "give the agent others: --outbound-port, --inbound-port, --admin-port",
    },
    Entry {
        code: "agent-net-admin",
        severity: Error,
        title: "bypassctl-init may change the pod's rules",
        why: "Without NET_ADMIN no rule can be made; init exits with code 3 and the pod does not start",
        fix: "set securityContext.capabilities.add: [NET_ADMIN]",
    },
    Entry {
        code: "agent-uid",
        severity: Error,
        title: "the sidecar, and nobody else, runs as the user that the rules exempt",
        why: "A sidecar of another user captures its own connections; an app of that user is not captured at all",
        fix: "set runAsUser 12552 for the sidecar alone, or --agent-uid to its user",
    },
    Entry {
        code: "agent-host-network",
        severity: Error,
        title: "the pod has a network of its own",
        why: "On the host's network the rules would hold for the whole node; init refuses",
        fix: "remove hostNetwork, or the agent",
    },
    Entry {
        code: "host-network",
        severity: Warning,
        title: "a pod without the agent has a network of its own",
        why: "On its host's network remoting listens on the node's address: whoever reaches the node reaches it, no mesh and no \
              network policy is in between, and of two such pods on a node the second finds its ports taken",
        fix: "remove hostNetwork",
    },
    Entry {
        code: "agent-tls",
        severity: Error,
        title: "the sidecar is given certificates that are mounted",
        why: "Without certificate, key and CA the sidecar does not start",
        fix: "mount the Secret and pass --tls-dir",
    },
    Entry {
        code: "native-tls",
        severity: Error,
        title: "nodes with TLS of their own and nodes with the agent can talk",
        why: "RotatingKeysSSLEngineProvider takes RSA keys alone, demands a DNS name or common name that all nodes share, and \
              Akka's speaks TLS 1.2 alone: certificates and sidecars that do not keep to that split the cluster in two",
        fix: "issue RSA certificates with one shared DNS name for all, and leave --tls-min-version at 1.2",
    },
    Entry {
        code: "native-tls-twice",
        severity: Warning,
        title: "the app does not speak TLS within the sidecar's TLS",
        why: "A node that does both can talk with nodes that do both alone, and encrypts everything twice",
        fix: "set artery.transport = tcp where there is an agent",
    },
    Entry {
        code: "agent-permissive",
        severity: Warning,
        title: "permissive mode has an end, and it has not come yet",
        why: "A permissive sidecar lets plaintext in; that is meant for a migration, and stays for years if nobody ends it",
        fix: "set --permissive-until, and --mode strict once every pod has the agent",
    },
    Entry {
        code: "agent-version",
        severity: Warning,
        title: "the agent's images are of one version",
        why: "Rules of one version and a sidecar of another are combinations that nobody tested",
        fix: "use one image for both, in every workload of the cluster",
    },
    Entry {
        code: "agent-grace",
        severity: Warning,
        title: "the sidecar may drain within the pod's grace period",
        why: "The kubelet kills what is left at the end of the grace period, connections that still drain among it",
        fix: "make terminationGracePeriodSeconds longer than --drain-timeout",
    },
];

pub(super) const CHECK_POD: &[Entry] = &[
    Entry {
        code: "rules-present",
        severity: Error,
        title: "table inet bypassctl stands",
        why: "Without it remoting and management go where the mesh sends them",
        fix: "read the log of bypassctl-init",
    },
    Entry {
        code: "rules-fit-ports",
        severity: Error,
        title: "the rules send remoting to the agent's ports, and management straight",
        why: "Rules for other ports leave remoting to the mesh",
        fix: "give `check pod`, init and proxy the same ports",
    },
    Entry {
        code: "rules-effective",
        severity: Error,
        title: "the sidecar's canary comes back to it",
        why: "Rules that are there may still lose against somebody else's",
        fix: "ask `bypassctl explain --to ADDRESS:PORT`",
    },
    Entry {
        code: "agent-listening",
        severity: Error,
        title: "both redirect listeners are up, the outbound one on loopback alone",
        why: "What is redirected to a port without a listener is refused",
        fix: "read the log of the sidecar",
    },
    Entry {
        code: "agent-ready",
        severity: Error,
        title: "the sidecar's /ready is 200",
        why: "A sidecar that is not ready has no certificate, no listeners or no rules",
        fix: "do what the named reason says",
    },
    Entry {
        code: "certificate-valid",
        severity: Error,
        title: "certificate, key and CA can be used now",
        why: "A running sidecar keeps the last good certificate, but cannot start again with a bad one",
        fix: "look at whoever issues it",
    },
    Entry {
        code: "certificate-renewed",
        severity: Warning,
        title: "more than a sixth of the lifetime, or six hours, is left",
        why: "Whoever renews it is late; past its end no new connection is made",
        fix: "look at whoever renews it",
    },
    Entry {
        code: "app-remoting-listening",
        severity: Warning,
        title: "the app's remoting listens on the pod's address",
        why: "The sidecar hands arriving connections to the pod's address",
        fix: "set artery.canonical.hostname or bind.hostname to it",
    },
    Entry {
        code: "app-management-listening",
        severity: Warning,
        title: "the app's management listens on the pod's address",
        why: "Peers and the kubelet dial the pod's address",
        fix: "set management.http.hostname to it",
    },
];
