"""What a bug report should say of the machine: versions, platform, devices, settings; never the value of a secret."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from .._version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "safetensors",
    "timm",
    "peft",
    "numpy",
    "pyarrow",
    "codecarbon",
)
PREFIXES = ("HF_", "HUGGING", "TRANSFORMERS_", "ACCELERATE_", "CUDA_", "NCCL_", "TORCH_", "PYTORCH_", "OMP_", "WANDB_")
SHOWN = frozenset(
    {
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_USE_CPU",
        "ACCELERATE_USE_FSDP",
        "ACCELERATE_USE_DEEPSPEED",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_LAUNCH_BLOCKING",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_HUB_DISABLE_XET",
        "OMP_NUM_THREADS",
        "PYTORCH_CUDA_ALLOC_CONF",
        "TRANSFORMERS_OFFLINE",
        "NCCL_DEBUG",
    }
)
"""Variables whose value is a plain setting; of all others only the name is shown."""


def environment_table(environ: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Facts in the order in which they are shown, e.g. `("python", "3.11.9")`.

    Args:
        environ (`Mapping[str, str]`, *optional*): environment variables; this process' when unset.
    """
    facts = [("hf-mutual-kd", __version__), ("python", platform.python_version()), ("platform", platform.platform())]
    facts += [(name, _version(name)) for name in PACKAGES]
    return facts + _devices() + _variables(environ)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> list[tuple[str, str]]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [("devices", f"torch cannot be imported: {type(error).__name__}")]
    facts = [("CPUs", str(os.cpu_count())), ("CUDA of torch", str(torch.version.cuda or "none"))]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        one = torch.cuda.get_device_properties(index)
        facts.append((f"GPU {index}", f"{one.name}, {one.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        facts.append(("GPU", "Apple (mps)"))
    return facts if count or len(facts) > 2 else [*facts, ("GPU", "none")]


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    names = sorted(name for name in environ if name.startswith(PREFIXES) and environ[name])
    return [(name, environ[name] if name in SHOWN else "set") for name in names]
