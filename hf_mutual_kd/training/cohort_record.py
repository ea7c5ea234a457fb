"""What a run says of itself: its peers, where they come from, and the software it ran on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..peers.adapters import adapter_facts, base_of
from ..peers.cohort import Cohort
from ..peers.quantization import count_parameters

PACKAGES = (
    "hf-mutual-kd",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "timm",
    "peft",
    "bitsandbytes",
)
COHORT = "cohort.json"


def versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cohort_facts(cohort: Cohort) -> dict[str, Any]:
    """Task, labels and every peer with its source, commit, architecture and size; ready for JSON."""
    return {
        "task": cohort.task.name,
        "words": cohort.task.words.to_record(),
        "labels": cohort.label_names,
        "peers": {
            name: {
                "source": spec.source,
                "revision": spec.revision,
                "architecture": type(base_of(cohort.peers[name])).__name__,
                "parameters": count_parameters(cohort.peers[name]),
                **({"frozen": True} if spec.frozen else {}),
                **adapter_facts(cohort.peers[name]),
                **({"new_head": True} if name in cohort.new_heads else {}),
            }
            for name, spec in cohort.specs.items()
        },
        "versions": versions(),
    }
