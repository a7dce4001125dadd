#!/usr/bin/env python3
"""As much of a Kubernetes API server as Cluster Bootstrap and the CNI plugin ask for: the pods of one namespace, over TLS.

usage: kubernetes_api.py LISTEN_ADDRESS TLS_DIR POD_IP...

Answers GET /api/v1/namespaces/default/pods?labelSelector=app=appka with one running pod for each POD_IP, GET
/api/v1/namespaces/default/pods/NAME with that one, 401 to both without a bearer token, GET /version, 404 to everything else.
Prints a line for each request.
"""

import http.server
import json
import ssl
import sys
import urllib.parse

PORT = 6443
PODS_PATH = "/api/v1/namespaces/default/pods"
SELECTOR = "app=appka"
CONTAINER_PORTS = [
    {"name": "remoting", "containerPort": 2552, "protocol": "TCP"},
    {"name": "management", "containerPort": 8558, "protocol": "TCP"},
]
SIDECAR = {"name": "bypassctl", "image": "bypassctl", "args": ["proxy"], "restartPolicy": "Always"}


def name_of(ip):
    """The name of a pod."""
    return f"appka-{ip.replace('.', '-')}"


def pod(ip):
    """A pod as bootstrap reads it, labels, named ports, phase and address, and as the plugin does: who is in it."""
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name_of(ip), "namespace": "default", "uid": name_of(ip), "labels": {"app": "appka"}},
        "spec": {
            "containers": [{"name": "appka", "image": "appka", "ports": CONTAINER_PORTS}],
            "initContainers": [SIDECAR],
        },
        "status": {"podIP": ip, "phase": "Running", "containerStatuses": [{"name": "appka", "state": running}]},
    }


def answer(path, authorization, pod_ips):
    """Status code and body for a GET."""
    url = urllib.parse.urlparse(path)
    selector = urllib.parse.parse_qs(url.query).get("labelSelector")
    by_path = {f"{PODS_PATH}/{name_of(ip)}": ip for ip in pod_ips}
    if url.path == "/version":
        return 200, {"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "clean",
                     "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64"}
    is_list = url.path == PODS_PATH and selector == [SELECTOR]
    if not is_list and url.path not in by_path:
        return 404, {"kind": "Status", "code": 404}
    if not (authorization or "").startswith("Bearer "):
        return 401, {"kind": "Status", "code": 401}
    if not is_list:
        return 200, pod(by_path[url.path])
    return 200, {"kind": "PodList", "apiVersion": "v1", "items": [pod(ip) for ip in pod_ips]}


def main():
    address, tls_dir, *pod_ips = sys.argv[1:]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):  # the name that http.server calls
            code, body = answer(self.path, self.headers.get("Authorization"), pod_ips)
            print("GET", self.path, code, "from", self.client_address[0], flush=True)
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((address, PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{tls_dir}/tls.crt", f"{tls_dir}/tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("listening", flush=True)
    server.serve_forever()


main()
