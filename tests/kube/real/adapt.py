#!/usr/bin/env python3
"""Fits the sample to the tests' application and adds a mesh.

usage: adapt.py [mesh-first|mesh-last|mesh-node|no-mesh] [IMAGE] [ANNOTATION=VALUE...] <objects >objects

The objects are JSON, one after another. mesh-…: an init container that loads the rules in the ConfigMap mesh-rules, and a
sidecar that stands in for the mesh's proxy; mesh-node: the sidecar alone. `inject` puts its own first, so mesh-first is for manifests that are injected
already.
"""

import json
import sys

TOOLS = "bypassctl.test/tools:1"


def objects(text):
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield from value["items"] if value["kind"] == "List" else [value]
        at += len(text[at:]) - len(text[at:].lstrip())


def mesh(image):
    """A mesh's two containers: rules that catch everything, and a proxy that passes it on."""
    load = {
        "name": "mesh-init",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "iptables-restore --noflush </rules/nft.v4"],
        "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}},
        "volumeMounts": [{"name": "mesh-rules", "mountPath": "/rules"}],
    }
    proxy = {
        "name": "mesh-proxy",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["proxy", "--mode=disabled", "--remoting-port=1-15000", "--management-port=65000", "--outbound-port=15001", "--inbound-port=15006",
                 "--admin-port=15540"],
        "restartPolicy": "Always",
        "securityContext": {
            "runAsUser": 1337,
            "runAsGroup": 1337,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return [load, proxy]


def main(order="no-mesh", image="", *annotations):
    for item in objects(sys.stdin.read()):
        if item["kind"] == "Namespace":
            continue
        if item["kind"] == "Deployment":
            item["metadata"].setdefault("labels", {})["bypassctl.io/agent"] = "enabled"
            template = item["spec"]["template"]
            spec = template["spec"]
            template["metadata"].setdefault("annotations", {}).update(a.split("=", 1) for a in annotations)
            app = spec["containers"][0]
            app["imagePullPolicy"] = "Never"
            if "args" not in app:
                app["args"] = [
                    "-Dpekko.remote.artery.canonical.port=17355",
                    "-Dpekko.management.http.port=7626",
                    *(f"-Dpekko.management.cluster.bootstrap.contact-point-discovery.{setting}" for setting in (
                        "discovery-method=kubernetes-api",
                        "port-name=management",
                        "required-contact-point-nr=2",
                        "stable-margin=2s",
                    )),
                    "bypassctl.testapp.ClusterNode",
                ]
                app["env"].append({"name": "APP_BOOTSTRAP", "value": "on"})
            if order == "mesh-node":
                spec["initContainers"] = [*spec.get("initContainers", []), mesh(image)[1]]
            elif order != "no-mesh":
                spec["volumes"] = spec.get("volumes", []) + [{"name": "mesh-rules", "configMap": {"name": "mesh-rules"}}]
                others = spec.get("initContainers", [])
                load, proxy = mesh(image)
                spec["initContainers"] = [load, *others, proxy] if order == "mesh-first" else [*others, load, proxy]
        print(json.dumps(item))
        print("---")


main(*sys.argv[1:])
