#!/usr/bin/env python3
"""Another injector beside ours: does to a pod what the one of Istio 1.24 to 1.29 does.

usage: other_webhook.py PORT CERTIFICATE KEY

POST /classic and POST /native take an AdmissionReview and answer with a patch: Istio's rules by `istio-init`, its proxy as an
ordinary container or as a native sidecar, both where Istio puts them at each call, and every HTTP, TCP or gRPC probe of every
container but its own changed into one that its proxy answers, as `rewriteAppHTTPProbers` has it by default (behaviour:
pkg/kube/inject/webhook.go and app_probe.go of Istio). Prints a line for each call: the pod, and whether our sidecar was in it.
"""

import base64
import http.server
import json
import ssl
import sys

PROXY, INIT = "istio-proxy", "istio-init"
STATUS_PORT = 15020
PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}


def put(containers, container, last=False):
    """The container, once and in that place; as it was if it is there."""
    there = [other for other in containers if other["name"] == container["name"]] or [container]
    others = [other for other in containers if other["name"] != container["name"]]
    return others + there if last else there + others


def rewrite(container, asked):
    """Its probes, into ones that the proxy answers; `asked` gets what it asks then."""
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for probe, word in PROBES.items():
        there = container.get(probe, {})
        for kind in ("httpGet", "tcpSocket", "grpc"):
            if kind not in there:
                continue
            what = dict(there.pop(kind))
            what["port"] = ports.get(what.get("port"), what.get("port"))
            path = f"/app-health/{container['name']}/{word}"
            if what["port"] != STATUS_PORT:
                asked[path] = {kind: what}
            there["httpGet"] = {"path": path, "port": STATUS_PORT}


def inject(pod, native):
    spec = pod["spec"]
    init, apps = spec.get("initContainers", []), spec["containers"]
    proxy = {"name": PROXY, "image": "istio/proxyv2:test", "args": ["proxy", "sidecar"],
             "securityContext": {"runAsUser": 1337, "runAsGroup": 1337}}
    rules = {"name": INIT, "image": "istio/proxyv2:test", "args": ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337"],
             "securityContext": {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}}}
    if native:
        init = put(put(init, proxy | {"restartPolicy": "Always"}), rules)
    else:
        init, apps = put(init, rules, last=True), put(apps, proxy, last=True)
    asked = {}
    for container in init + apps:
        if container["name"] != PROXY:
            rewrite(container, asked)
    sidecar = next(container for container in init + apps if container["name"] == PROXY)
    env = sidecar.setdefault("env", [])
    known = next((entry for entry in env if entry["name"] == "ISTIO_KUBE_APP_PROBERS"), None)
    if known is None:
        env.append(known := {"name": "ISTIO_KUBE_APP_PROBERS", "value": "{}"})
    known["value"] = json.dumps(asked | json.loads(known["value"]), sort_keys=True)
    spec["initContainers"], spec["containers"] = init, apps
    pod["metadata"].setdefault("annotations", {})["sidecar.istio.io/status"] = "{}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = review["request"]
        pod = request["object"]
        containers = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        ours = any(container["name"] == "bypassctl" for container in containers)
        name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
        print(name, "with" if ours else "without", flush=True)
        inject(pod, self.path.startswith("/native"))
        patch = [{"op": "add", "path": "/spec", "value": pod["spec"]},
                 {"op": "add", "path": "/metadata/annotations", "value": pod["metadata"]["annotations"]}]
        response = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch",
                    "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(port, certificate, key):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


main(*sys.argv[1:])
