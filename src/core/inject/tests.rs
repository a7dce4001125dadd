use serde_json::json;

use super::*;

pub(crate) fn options() -> Options {
    Options {
        image: "registry.example/bypassctl:0.1.0".to_owned(),
        pull_policy: None,
        sidecar: SidecarKind::Native,
        path: TrafficPath::Rules,
        ports: ClusterPorts::new(None, &[], &[]).unwrap(),
        mode: TlsMode::Strict,
        permissive_until: None,
        allow: Vec::new(),
        tls_secret: "{name}-remoting-tls".to_owned(),
        backend: BackendChoice::Auto,
        events: false,
        readiness_gate: false,
    }
}

/// As people write them: comments, blank lines, several documents, quotes, both indentations of lists.
const PLAIN: &str = r#"# The service and its pods.
apiVersion: v1
kind: Service
metadata: {name: my-service}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: my-service   # also the label
  namespace: shop
spec:
  replicas: 3
  template:
    metadata:
      labels:
        app: my-service

    # What runs.
    spec:
      serviceAccountName: my-service
      # The app itself.
      containers:
      - name: my-service
        image: "my-service:1.0"
        args: ["-Dx=y", 'it''s']
        command:
        - sh
        - -c
        - |
          echo hello   # no comment

          echo world

        ports:
        # for traffic
        - {name: http, containerPort: 8080}
        - name: management
          containerPort: 8558
---
"#;

fn added(text: &str) -> String {
    inject(text, &options()).unwrap().text
}

/// The pod template of the first workload, as another parser reads it.
fn template(text: &str) -> Value {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let workload = documents.into_iter().find(|document| document["spec"]["template"].is_object()).expect("a workload");
    workload["spec"]["template"].clone()
}

#[test]
fn what_was_there_stays_as_it_was() {
    let text = added(PLAIN);
    let lines: Vec<&str> = text.lines().collect();
    let mut rest = lines.iter();
    for line in PLAIN.lines() {
        assert!(rest.any(|other| *other == line), "{line:?} is gone from\n{text}");
    }
    assert!(text.contains("      # The app itself.\n      containers:"), "{text}");
}

#[test]
fn the_pod_gets_init_container_sidecar_and_certificate() {
    let pod = template(&added(PLAIN));
    let names = |list: &str| -> Vec<String> {
        pod["spec"][list].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["bypassctl-init", "bypassctl"]);
    assert_eq!(names("containers"), ["my-service"]);
    assert_eq!(names("volumes"), ["bypassctl-tls"]);
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["secretName"], "my-service-remoting-tls");
    assert_eq!(pod["metadata"]["labels"]["app"], "my-service");
    assert_eq!(pod["metadata"]["annotations"]["bypassctl.io/injected"], env!("CARGO_PKG_VERSION"));
}

/// As text and as data it comes to the same.
#[test]
fn the_text_says_what_the_data_says() {
    for (kind, path) in [
        (SidecarKind::Native, TrafficPath::Rules),
        (SidecarKind::Classic, TrafficPath::Rules),
        (SidecarKind::Classic, TrafficPath::Ports),
    ] {
        let options = Options { sidecar: kind, path, allow: vec!["spiffe://c/ns/shop/sa/*".to_owned()], ..options() };
        let mut data = template(PLAIN);
        let injection = plan("Deployment", "my-service", &data, &options).unwrap().unwrap();
        apply(&mut data, &injection);
        let text = inject(PLAIN, &options).unwrap().text;
        assert_eq!(template(&text), data, "{text}");
        remove(&mut data);
        assert_eq!(data, template(PLAIN));
    }
}

#[test]
fn injecting_twice_is_injecting_once_and_taking_away_leaves_the_original() {
    let flow = r#"{"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"name": "a, ]"}]}}}}"#;
    let list = "kind: List\nitems:\n- kind: Pod\n  metadata:\n    name: p\n    annotations:\n      a: b\n  spec:\n    volumes: []\n    \
                initContainers:\n      - name: first\n        image: x\n    containers:\n      - image: y\n";
    let mixed = "kind: StatefulSet\nmetadata: {name: s}\nspec:\n  template:\n    metadata: {labels: {app: s}}\n    spec:\n      \
                 volumes: [{name: v}]\n      containers: [{name: s, image: i}]\n";
    let windows = PLAIN.replace('\n', "\r\n");
    for text in [PLAIN, flow, list, mixed, &windows, "", "---\n# nothing\n", "kind: ConfigMap\ndata: {a: b}\n"] {
        let once = added(text);
        assert_eq!(added(&once), once, "twice");
        assert_eq!(uninject(&once).unwrap().text, text, "taken away from\n{once}");
        assert!(!once.contains("\r\n") || !once.replace("\r\n", "").contains('\n'), "mixed line ends");
        if text.contains("containers") {
            assert!(once.contains("bypassctl-init"), "{once}");
            let _: Vec<Value> = serde_saphyr::from_multiple(&once).unwrap();
        }
    }
    let json: Value = serde_json::from_str(&added(flow)).expect("JSON stays JSON");
    assert_eq!(json["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
}

#[test]
fn other_options_replace_what_an_earlier_run_added() {
    let before = added(PLAIN);
    let after = inject(&before, &Options { image: "new:2".to_owned(), ..options() }).unwrap().text;
    assert!(!after.contains("registry.example") && after.matches("image: new:2").count() == 2, "{after}");
}

fn planned(template: Value) -> Result<Option<Injection>, Refused> {
    plan("Deployment", "a", &template, &options())
}

#[test]
fn annotations_of_the_pod_decide() {
    let with =
        |annotations: Value| json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}]}});
    let args = |annotations: Value| -> Vec<String> {
        let injection = planned(with(annotations)).unwrap().unwrap();
        serde_json::from_value(injection.init_containers[1]["args"].clone()).unwrap()
    };
    let pekko = args(json!({"bypassctl.io/preset": "pekko", "bypassctl.io/mode": "permissive",
        "bypassctl.io/permissive-until": "2026-12-24", "bypassctl.io/allow": "dns:a, ca"}));
    assert_eq!(
        pekko,
        [
            "proxy",
            "--remoting-port=17355",
            "--management-port=7626",
            "--mode=permissive",
            "--permissive-until=2026-12-24",
            "--allow=dns:a",
            "--allow=ca",
            "--tls-dir=/var/run/bypassctl/tls"
        ]
    );
    assert_eq!(
        args(json!({"bypassctl.io/management-port": "9000"}))[1..3],
        ["--remoting-port=2552", "--management-port=9000"]
    );
    assert_eq!(planned(with(json!({"bypassctl.io/inject": "false"}))), Ok(None));
    for (name, value) in [
        ("bypassctl.io/inject", "maybe"),
        ("bypassctl.io/remoting-port", "http"),
        ("bypassctl.io/management-port", "2552"),
        ("bypassctl.io/mode", "on"),
        ("bypassctl.io/image", ""),
        ("bypassctl.io/remoting-ports", "2552"),
    ] {
        let refused = planned(with(json!({name: value}))).unwrap_err();
        assert!(
            matches!(refused, Refused::BadAnnotation { .. } | Refused::UnknownAnnotation { .. }),
            "{name}: {refused}"
        );
    }
}

#[test]
fn pods_that_cannot_be_helped_are_refused() {
    let refused = |spec: Value| planned(json!({"spec": spec})).unwrap_err();
    let app = json!([{"name": "a"}]);
    assert_eq!(refused(json!({"hostNetwork": true, "containers": app})), Refused::HostNetwork);
    assert!(matches!(refused(json!({"os": {"name": "windows"}, "containers": app})), Refused::OtherSystem(_)));
    assert!(matches!(refused(json!({"containers": [{"name": "bypassctl"}]})), Refused::ByHand(_)));
    assert!(matches!(
        refused(json!({"securityContext": {"runAsUser": 12552}, "containers": app})),
        Refused::AgentsUser(_)
    ));
    assert_eq!(refused(json!({"containers": []})), Refused::NoContainers);
    let classic = Options { sidecar: SidecarKind::Classic, ..options() };
    let job = plan("Job", "a", &json!({"spec": {"containers": app}}), &classic);
    assert_eq!(job, Err(Refused::NeverOver("Job".to_owned())));
    let pod = |policy: &str| plan("Pod", "a", &json!({"spec": {"restartPolicy": policy, "containers": app}}), &classic);
    assert_eq!(pod("OnFailure"), Err(Refused::NeverOver("Pod with restartPolicy OnFailure".to_owned())));
    assert!(pod("Always").is_ok());
}

#[test]
fn what_cannot_be_changed_in_place_is_said() {
    let style = |text: &str| inject(text, &options()).unwrap_err().to_string();
    let anchors = "kind: Pod\nmetadata: {name: p}\nspec:\n  containers: &c\n  - name: a\n  initContainers: *c\n";
    assert!(
        style(anchors).contains("document 1, line 6") && style(anchors).contains("an anchor"),
        "{}",
        style(anchors)
    );
    let twice = "kind: Pod\nmetadata: {name: p}\nspec: {containers: []}\nmetadata: {name: q}\n";
    assert!(style(twice).contains("line 4: the key \"metadata\" is there twice"), "{}", style(twice));
    for broken in ["kind: Pod\n  bad: [", "\t- x: {", &format!("kind: {}", "[".repeat(5000))] {
        assert!(matches!(inject(broken, &options()), Err(Untouched::Unreadable(_))), "{broken:.40}");
    }
}

#[test]
fn a_probe_of_remoting_is_worth_a_note() {
    let injection = planned(json!({"spec": {"containers": [
        {"name": "a", "ports": [{"name": "remoting", "containerPort": 2552}],
            "livenessProbe": {"tcpSocket": {"port": "remoting"}}, "readinessProbe": {"httpGet": {"port": 8558}}}
    ]}}));
    let notes = injection.unwrap().unwrap().notes;
    assert!(notes.len() == 1 && notes[0].starts_with("livenessProbe of container a"), "{notes:?}");
}

#[test]
fn a_gate_comes_with_what_the_sidecar_needs_to_open_it_and_goes_with_it() {
    let mut options = options();
    (options.events, options.readiness_gate) = (true, true);
    let gated = PLAIN
        .replace("      containers:\n", "      readinessGates:\n      - conditionType: other\n      containers:\n");
    for before in [PLAIN.to_owned(), gated] {
        let edited = inject(&before, &options).unwrap();
        for part in ["- conditionType: bypassctl.io/remoting-ready", "--readiness-gate", "--events", "POD_UID"] {
            assert_eq!(edited.text.matches(part).count(), 1, "{part}: {}", edited.text);
        }
        let notes = format!("{:?}", edited.notes);
        assert!(notes.contains("service account my-service needs create and patch on events"), "{notes}");
        assert_eq!(inject(&edited.text, &options).unwrap().text, edited.text);
        assert_eq!(uninject(&edited.text).unwrap().text, before);
    }
    let annotated = PLAIN.replace(
        "      labels:",
        "      annotations:\n        bypassctl.io/readiness-gate: \"perhaps\"\n      labels:",
    );
    let error = inject(&annotated, &options).unwrap_err().to_string();
    assert!(error.contains("bypassctl.io/readiness-gate") && error.contains("true"), "{error}");
}

/// A pod with these lines in its app's container.
fn pod_with(container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart\nspec:\n  containers:\n  - name: cart\n    image: cart:1\n{container}"
    )
}

fn read(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn by_ports() -> Options {
    Options { path: TrafficPath::Ports, ..options() }
}

#[test]
fn what_variables_say_already_stays_and_the_library_comes_last() {
    for (preload, java) in [
        ("/opt/a.so", "-Xmx1g -Dx=y"),
        ("\"/opt/a.so:/opt/b.so\"", "'-Xmx1g'   # half of the limit"),
        ("'/opt/a.so /opt/b.so'", "\"-Xmx1g\""),
    ] {
        let before = pod_with(&format!(
            "    env:\n    - name: LD_PRELOAD\n      value: {preload}\n    # for the JVM\n    - {{name: JAVA_TOOL_OPTIONS, value: \
             {java}\n      }}\n    - name: OTHER\n      value: x\n"
        ));
        let injected = inject(&before, &by_ports()).unwrap().text;
        let containers = &read(&injected)[0]["spec"]["containers"];
        let value = |name: &str| {
            let env = containers[0]["env"].as_array().unwrap();
            env.iter().find(|item| item["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
        };
        let library = "/var/run/bypassctl/shim/libbypassctl_preload.so";
        let quotes = ['"', '\''];
        assert_eq!(value("LD_PRELOAD"), format!("{}:{library}", preload.trim_matches(quotes)), "{injected}");
        let said = java.split('#').next().unwrap().trim().trim_matches(quotes);
        assert!(value("JAVA_TOOL_OPTIONS").starts_with(&format!("{said} -agentpath:{library} -Dakka.")), "{injected}");
        assert_eq!((value("BYPASSCTL_SHIM_PORTS").as_str(), value("OTHER").as_str()), ("2552", "x"));
        assert_eq!(uninject(&injected).unwrap().text, before);
    }
}

#[test]
fn by_ports_nobody_needs_a_capability() {
    let injected = inject(&pod_with("    ports: [{containerPort: 2552}]\n"), &by_ports()).unwrap().text;
    assert!(!injected.contains("NET_ADMIN") && !injected.contains("runAsUser: 0"), "{injected}");
    let spec = &read(&injected)[0]["spec"];
    for container in spec["initContainers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!((&context["capabilities"], &context["runAsNonRoot"]), (&json!({"drop": ["ALL"]}), &json!(true)));
    }
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], SHIM_VOLUME);
}

/// The node's plugin would make rules to ports where such a sidecar does not listen.
#[test]
fn rules_of_the_node_are_refused_with_the_pods_ports() {
    let with =
        |annotations: Value| json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}]}});
    let asks = json!({"bypassctl.io/rules": "capture"});
    let says_both = json!({"bypassctl.io/rules": "capture", "bypassctl.io/path": "ports"});
    for refused in [plan("Deployment", "a", &with(asks), &by_ports()), planned(with(says_both))] {
        assert!(refused.unwrap_err().to_string().contains("leave out one of the two"));
    }
}

#[test]
fn an_app_that_cannot_be_told_is_refused_with_what_to_do() {
    for (container, complaint) in [
        (
            "    env:\n    - name: LD_PRELOAD\n      valueFrom: {configMapKeyRef: {name: a, key: b}}\n",
            "put /var/run/bypassctl",
        ),
        ("    env: [{name: JAVA_TOOL_OPTIONS}]\n", "JAVA_TOOL_OPTIONS of container cart is not written there"),
        ("    env: [{name: BYPASSCTL_SHIM_PORTS, value: \"1\"}]\n", "BYPASSCTL_SHIM_PORTS in container cart"),
        (
            "    volumeMounts: [{name: x, mountPath: /var/run/bypassctl/shim}]\n",
            "mount of the library in container cart",
        ),
        ("  - name: other\n    image: other:1\n", "which of the containers is the app? Name its remoting port (2552)"),
        ("    env:\n    - name: LD_PRELOAD\n      value: |-\n        /opt/a.so\n", "several lines"),
    ] {
        let refused = inject(&pod_with(container), &by_ports()).expect_err(container).to_string();
        assert!(refused.contains(complaint), "{container}: {refused}");
    }
    let two = "    ports: [{containerPort: 2552}]\n  - name: other\n    image: other:1\n";
    let injected = inject(&pod_with(two), &by_ports()).unwrap().text;
    assert_eq!(injected.matches("LD_PRELOAD").count(), 1, "{injected}");
}
