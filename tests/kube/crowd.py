#!/usr/bin/env python3
"""Says for a missing kubelet that pods of one cluster run, and answers for their management, until it is ended.

usage: crowd.py PODS

KUBECONFIG names the cluster. The pods' addresses, 10.201.0.1 and up, lie on a link of this machine's own, bypassctl-crowd, and
the API server reaches management there (pods/proxy); a port-forward it refuses, since there is no kubelet. Prints `ready` once all
is as said.
"""
import concurrent.futures
import http.client
import http.server
import json
import subprocess
import sys
import threading

LINK = "bypassctl-crowd"
PODS = "/api/v1/namespaces/crowd/pods"


def run(*command, given=None):
    subprocess.run(command, input=given, text=True, check=True, stdout=subprocess.DEVNULL)


def address(number):
    return f"10.201.{number // 250}.{number % 250 + 1}"


def node(number):
    return f"pekko://crowd@{address(number)}:2552"


def pod(number):
    ports = [{"name": "remoting", "containerPort": 2552}, {"name": "management", "containerPort": 8558}]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"crowd-{number}", "namespace": "crowd", "labels": {"app": "crowd"}},
        "spec": {"containers": [{"name": "app", "image": "test", "ports": ports}]},
    }


def as_run(number):
    ip = address(number)
    return {"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }}


class Management(http.server.BaseHTTPRequestHandler):
    members = []

    def do_GET(self):
        me = self.connection.getsockname()[0]
        body = "OK"
        if self.path.startswith("/cluster/members"):
            first = node(0)
            body = json.dumps({
                "selfNode": f"pekko://crowd@{me}:2552", "leader": first, "oldest": first, "members": self.members,
                "oldestPerRole": {"dc-default": first}, "unreachable": [],
            })
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


def post(port, method, path, body, kind="application/json"):
    api = http.client.HTTPConnection("127.0.0.1", port)
    api.request(method, path, json.dumps(body), {"Content-Type": kind})
    answer = api.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")


def make(port, number):
    name = f"crowd-{number}"
    post(port, "POST", PODS, pod(number))
    target = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "paper"}}
    post(port, "POST", f"{PODS}/{name}/binding", target)
    post(port, "PATCH", f"{PODS}/{name}/status", as_run(number), "application/strategic-merge-patch+json")


def main():
    count = int(sys.argv[1])
    Management.members = [
        {"node": node(number), "nodeUid": str(number), "status": "Up", "roles": ["dc-default"]} for number in range(count)
    ]
    run("kubectl", "create", "--filename", "-", given=json.dumps(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "paper"}, "spec": {"unschedulable": True}}))
    run("kubectl", "create", "namespace", "crowd")
    run("kubectl", "--namespace", "crowd", "create", "serviceaccount", "crowd")
    run("kubectl", "--namespace", "crowd", "wait", "--for=create", "--timeout=60s", "serviceaccount/default")
    subprocess.run(["ip", "link", "del", LINK], check=False, stderr=subprocess.DEVNULL)
    run("ip", "link", "add", LINK, "type", "bridge")
    run("ip", "-batch", "-", given="".join(f"addr add {address(n)}/32 dev {LINK}\n" for n in range(count)))
    run("ip", "link", "set", LINK, "up")
    with subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True) as proxy:
        try:
            port = int(proxy.stdout.readline().rsplit(":", 1)[1])
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda number: make(port, number), range(count)))
        finally:
            proxy.terminate()
    server = Server(("0.0.0.0", 8558), Management)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    try:
        sys.stdin.read()
    finally:
        run("ip", "link", "del", LINK)


if __name__ == "__main__":
    main()
