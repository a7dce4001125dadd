use super::*;
use crate::core::inject::tests::options;
use crate::core::route::TrafficPath;

fn asked(pod: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
        "namespace": "shop", "object": pod,
    }})
}

fn pod() -> Value {
    json!({
        "metadata": {
            "generateName": "cart-5d8f7c-", "labels": {"app": "cart", "pod-template-hash": "5d8f7c"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-5d8f7c", "controller": true}],
        },
        "spec": {"containers": [{"name": "cart", "image": "cart:1"}], "volumes": [{"name": "token"}]},
    })
}

/// The pod as the API server then has it.
fn patched(pod: &Value, answer: &Answer) -> Value {
    let ByteString(patch) = serde_json::from_value(answer.review["response"]["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn the_patch_makes_of_a_pod_what_inject_makes_of_it() {
    let mut bare = pod();
    bare["spec"].as_object_mut().unwrap().remove("volumes");
    let mut full = pod();
    full["metadata"]["annotations"] = json!({"a/b": "c"});
    full["spec"]["initContainers"] =
        json!([{"name": "istio-init"}, {"name": "istio-proxy", "restartPolicy": "Always"}]);
    let mut classic = options();
    classic.sidecar = inject::SidecarKind::Classic;
    let ports = Options { path: TrafficPath::Ports, sidecar: inject::SidecarKind::Classic, ..options() };
    let mut told = pod();
    told["spec"]["containers"][0]["env"] = json!([{"name": "A"}, {"name": "LD_PRELOAD", "value": "/opt/a.so"}]);
    told["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "token", "mountPath": "/token"}]);
    for (pod, options) in
        [(bare.clone(), options()), (full.clone(), options()), (full, classic), (bare, ports.clone()), (told, ports)]
    {
        let answer = review(&asked(&pod), &options).unwrap();
        assert_eq!((answer.verdict, answer.pod.as_str()), (Verdict::Injected, "shop/cart-5d8f7c-*"));
        assert_eq!(answer.review["response"]["uid"], "705ab4f5");
        let mut expected = pod.clone();
        inject::apply(&mut expected, &inject::plan("Pod", "cart", &pod, &options).unwrap().unwrap());
        let got = patched(&pod, &answer);
        assert_eq!(got, expected);
        let again = review(&asked(&got), &options).unwrap();
        assert_eq!(again.verdict, Verdict::Untouched);
        assert_eq!(again.review["response"], json!({"uid": "705ab4f5", "allowed": true}));
    }
}

#[test]
fn the_secret_is_named_after_the_workload_and_not_after_its_pod() {
    let owned = |kind: &str, name: &str| {
        let mut pod = pod();
        pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "name": name, "controller": true}]);
        workload(&pod["metadata"])
    };
    assert_eq!(owned("ReplicaSet", "cart-5d8f7c"), "cart");
    assert_eq!(owned("ReplicaSet", "by-hand"), "by-hand");
    assert_eq!(owned("StatefulSet", "cart-5d8f7c"), "cart-5d8f7c");
    assert_eq!(owned("Job", "nightly-29384756"), "nightly");
    assert_eq!(owned("Job", "import-2026"), "import-2026");
    assert_eq!(workload(&json!({"name": "one"})), "one");
    assert_eq!(workload(&json!({"generateName": "some-"})), "some");
}

#[test]
fn what_cannot_be_helped_is_refused_with_the_reason_and_the_way_out() {
    let mut on_host = pod();
    on_host["spec"]["hostNetwork"] = true.into();
    let mut misspelt = pod();
    misspelt["metadata"]["annotations"] = json!({"bypassctl.io/alow": "ca"});
    for (pod, reason) in [(on_host, "host network"), (misspelt, "bypassctl.io/alow")] {
        let answer = review(&asked(&pod), &options()).unwrap();
        assert_eq!(answer.verdict, Verdict::Refused);
        let response = &answer.review["response"];
        let message = response["status"]["message"].as_str().unwrap();
        assert!(response["allowed"] == false && response.get("patch").is_none(), "{response}");
        assert!(message.contains(reason) && message.contains("bypassctl.io/inject: \"false\""), "{message}");
    }
}

/// A classic sidecar keeps such a pod from ever being over.
#[test]
fn a_pod_that_has_to_end_gets_no_classic_sidecar() {
    let classic = Options { sidecar: inject::SidecarKind::Classic, ..options() };
    let mut job = pod();
    job["metadata"]["ownerReferences"] = json!([{"kind": "Job", "name": "nightly-29384756", "controller": true}]);
    let mut lone = pod();
    lone["metadata"] = json!({"name": "once"});
    lone["spec"]["restartPolicy"] = "OnFailure".into();
    for (pod, reason) in [(job, "a Job is never over"), (lone, "a Pod with restartPolicy OnFailure is never over")] {
        let refused = review(&asked(&pod), &classic).unwrap();
        assert_eq!(refused.verdict, Verdict::Refused);
        let message = refused.review["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains(reason) && message.contains("bypassctl.io/inject: \"false\""), "{message}");
        assert_eq!(review(&asked(&pod), &options()).unwrap().verdict, Verdict::Injected, "a native one ends with it");
    }
    let mut service = pod();
    service["spec"]["restartPolicy"] = "Always".into();
    assert_eq!(review(&asked(&service), &classic).unwrap().verdict, Verdict::Injected);
}

#[test]
fn what_is_said_of_a_pod_is_bounded_whatever_it_says() {
    let long = "é".repeat(500_000);
    let mut named = pod();
    named["metadata"]["name"] = long.as_str().into();
    let probes = json!({"tcpSocket": {"port": 2552}});
    let container = json!({"name": long, "livenessProbe": probes, "readinessProbe": probes, "startupProbe": probes});
    named["spec"]["containers"] = vec![container; 10].into();
    let mut odd = pod();
    odd["metadata"]["annotations"] = json!({"bypassctl.io/mode": long});
    for pod in [named, odd] {
        let answer = review(&asked(&pod), &options()).unwrap();
        assert!(answer.pod.len() < 400 && answer.notes.concat().len() < 20_000, "{}", answer.pod);
        assert!(answer.review.to_string().len() < 40_000);
    }
    let mut misnamed = asked(&pod());
    misnamed["request"]["uid"] = long.into();
    assert!(review(&misnamed, &options()).is_err());
}

#[test]
fn a_pod_that_wants_none_is_let_through_as_it_is() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"bypassctl.io/inject": "false"});
    let answer = review(&asked(&pod), &options()).unwrap();
    assert_eq!((answer.verdict, answer.review["response"].get("patch")), (Verdict::Untouched, None));
}

#[test]
fn a_copied_annotation_is_no_agent() {
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({"bypassctl.io/injected": "0.1.0"});
    assert_eq!(review(&asked(&pod), &options()).unwrap().verdict, Verdict::Injected);
}

#[test]
fn what_is_worth_knowing_is_a_warning() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 2552}});
    let answer = review(&asked(&pod), &options()).unwrap();
    let warnings = answer.review["response"]["warnings"].to_string();
    assert!(warnings.contains("livenessProbe of container cart"), "{warnings}");
}

#[test]
fn what_is_no_review_of_a_new_pod_is_named() {
    let mut update = asked(&pod());
    update["request"]["operation"] = "UPDATE".into();
    let mut other = asked(&pod());
    other["request"]["kind"] = json!({"group": "apps", "kind": "Deployment"});
    let mut old = asked(&pod());
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut nameless = asked(&pod());
    nameless["request"].as_object_mut().unwrap().remove("uid");
    for (asked, reason) in [
        (update, "nothing is created"),
        (other, "not about a Pod"),
        (old, "are others"),
        (nameless, "no uid"),
        (asked(&json!({})), "no spec"),
        (json!(["x"]), "are others"),
        (Value::Null, "are others"),
    ] {
        let error = review(&asked, &options()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
