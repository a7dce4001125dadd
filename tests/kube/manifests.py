#!/usr/bin/env python3
"""Makes manifests of the YAML blocks in Markdown files.

usage: manifests.py DIRECTORY FILE...

Writes DIRECTORY/NAME-N.yaml for the Nth block of NAME.md that concerns Kubernetes: a block with a `kind` as it is, a part
of a pod's specification in a Deployment, a container's security context in a Deployment with such a container. Other
blocks, such as bypassctl's own configuration, have no number. Text, and no YAML parser: comments and order stay, and the
API itself is to read it.
"""

import pathlib
import re
import sys

BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: documented}
spec:
  selector: {matchLabels: {app: documented}}
  template:
    metadata: {labels: {app: documented}}
    spec:
      containers:
      - name: app
        image: app
"""


def indented(block, spaces):
    return "".join(" " * spaces + line if line.strip() else line for line in block.splitlines(keepends=True))


def manifest(block):
    """The block as something that can be applied, or nothing."""
    keys = re.findall(r"^(\w+):", block, re.MULTILINE)
    if "kind" in keys:
        return block
    if "initContainers" in keys or "containers" in keys:
        return DEPLOYMENT + indented(block, 6)
    if keys == ["securityContext"]:
        return DEPLOYMENT + indented(block, 8)
    return None


def main(directory, *files):
    for file in map(pathlib.Path, files):
        manifests = [text for text in map(manifest, BLOCK.findall(file.read_text())) if text]
        for number, text in enumerate(manifests, 1):
            (pathlib.Path(directory) / f"{file.stem}-{number}.yaml").write_text(text)


main(*sys.argv[1:])
