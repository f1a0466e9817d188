"""Which container images a node can be started from."""

from __future__ import annotations

import re

from fleet.cluster_file.finding import Findings

RAY = "2.60.0"
"""The version that pyproject.toml pins: every node must run the same one."""
PYTHON = "py311"
_RAY_TAG = re.compile(r"^(\d+\.\d+\.\d+)(?:\.[0-9a-f]+)?(-py\d+)?(-cpu|-gpu|-cu\d+)?$")


def check_image(image: object, field: str, *, gpu: bool, findings: Findings) -> None:
    """An image must exist, be pinned, and be of our Ray; `gpu`: it must bring CUDA along."""
    cuda = "-gpu" if gpu else "-cpu or -gpu"
    ours = f"rayproject/ray:{RAY}-{PYTHON} with {cuda}, or an own image with a fixed tag"
    if not isinstance(image, str) or not image:
        findings.add(field, image, ours)
        return
    name, _, tag = image.partition("@")[0].partition(":")
    if name.rsplit("/", 1)[-1] == "ray-ml":
        findings.add(field, f"{image}: ray-ml images are no longer built", ours)
        return
    if "@sha256:" not in image and tag in ("", "latest", "nightly"):
        findings.add(field, f"{image}: no fixed tag", ours)
        return
    if name not in ("rayproject/ray", "docker.io/rayproject/ray"):
        return
    parts = _RAY_TAG.match(tag)
    if parts is None or parts[1] != RAY or parts[2] not in (None, f"-{PYTHON}"):
        findings.add(field, f"{image}: another version of Ray or Python", ours)
    elif parts[2] is None:
        findings.add(field, f"{image}: the Python version is left to the image", ours)
    elif gpu and parts[3] in (None, "-cpu"):
        findings.add(field, f"{image}: no CUDA on a node with a GPU", ours)
