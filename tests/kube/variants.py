#!/usr/bin/env python3
"""Applies every manifest of tests/checks to the API server, each in a namespace of its own, and has `check cluster` judge it.

usage: variants.py MANIFESTS BYPASSCTL

MANIFESTS is the example program of that name. What `check files` finds in a manifest, `check cluster` must find too, and
nothing else but ONLY_LIVE; `check files` in turn finds what tests/checks says. What the server does not take must be
in REFUSED, with its reason. Prints what is wrong, then one line of counts; exits 1 if something is wrong.
"""
import concurrent.futures
import json
import re
import subprocess
import sys

# What the server refuses, and a part of its reason.
REFUSED = {
    "the proxy as an init container that never ends": "may not be set for init containers without restartPolicy=Always",
    "a role that nobody is bound to": 'no matches for kind "Binding"',
    "a selector of other labels": "`selector` does not match template `labels`",
    "an API that is gone": 'no matches for kind "Deployment" in version "apps/v1beta2"',
    "a port that is none": "must be between 1 and 65535",
    "two ports of one name": "Duplicate value",
    "a document that is no YAML": "error converting YAML to JSON",
    "a number where a text belongs": "env",
    "a second LD_PRELOAD without the library": "duplicate entries for key",
}

# A cluster has no budget where there is none; manifests that name none may have one elsewhere. Pods are of a cluster alone.
ONLY_LIVE = {"disruption-budget", "agent-everywhere", "pods-wanted", "pods-running", "pods-ready", "pods-restart"}


def run(*command, given=None):
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def in_namespace(text, namespace):
    """The manifest with its own namespaces renamed to this one, consistently."""
    text = re.sub(r"\b(shop|orders|pricing|cart)\b", namespace, text)
    text = text.replace("serviceaccount:default:default", f"serviceaccount:{namespace}:default")
    return text.replace("metadata: {name: default, labels: {istio", f"metadata: {{name: {namespace}, labels: {{istio")


def failures(report):
    checks = json.loads(report.stdout)["checks"]
    failed = {check["code"]: check["message"] for check in checks if check["status"] == "fail"}
    # That nothing was there to judge is no finding in a manifest.
    failed.pop("something-judged", None)
    return failed


def judge(bypassctl, number, manifest):
    """What is wrong, as text; and whether the server took it."""
    namespace, what = f"variant-{number}", manifest["what"]
    text = in_namespace(manifest["text"], namespace)
    offline = run(bypassctl, "check", "files", "--namespace", namespace, "--output", "json", "-", given=text)
    wanted = failures(offline)
    if set(wanted) != set(manifest["codes"]):
        return f"{what}: check files finds {sorted(wanted)}, and not {manifest['codes']}", False
    applied = run("kubectl", "--namespace", namespace, "apply", "--server-side", "--filename", "-", given=text)
    if applied.returncode:
        known = what in REFUSED and REFUSED[what] in applied.stderr
        return None if known else f"{what}: refused: {applied.stderr.strip()}", False
    if what in REFUSED:
        return f"{what}: the server takes it by now", True
    found = failures(run(bypassctl, "check", "cluster", "--namespace", namespace, "--output", "json"))
    missed = set(wanted) - set(found)
    more = set(found) - set(wanted) - (ONLY_LIVE - {"disruption-budget"} if "PodDisruptionBudget" in text else ONLY_LIVE)
    if missed or more:
        told = "; ".join(f"{code}: {found[code]}" for code in sorted(more))
        return f"{what}: misses {sorted(missed)}, finds also {told or 'nothing'}", True
    return None, True


def main():
    manifests, bypassctl = sys.argv[1:]
    listed = [json.loads(line) for line in run(manifests).stdout.splitlines()]
    # All at once; they go with the cluster.
    names = [f"variant-{number}" for number in range(len(listed))]
    namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    made = run("kubectl", "create", "--filename", "-", given="\n---\n".join(map(json.dumps, namespaces)))
    if made.returncode:
        sys.exit(made.stderr)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda item: judge(bypassctl, *item), enumerate(listed)))
    wrong = [text for text, _ in results if text]
    print("\n".join(wrong))
    taken = sum(taken for _, taken in results)
    print(f"manifests={len(listed)} taken={taken} refused={len(REFUSED)} wrong={len(wrong)}")
    unknown = set(REFUSED) - {manifest["what"] for manifest in listed}
    if unknown:
        print(f"no such manifest: {sorted(unknown)}")
    return 1 if wrong or unknown or len(listed) < 80 else 0


if __name__ == "__main__":
    sys.exit(main())
