"""What the folder of a saved adapter says of itself, and what of it may leave the machine. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .reader_folder import reads_of
from .task_words import TaskWords

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LABELS = "id2label.json"
"""Labels of an adapter whose classifier is a new one: its base's configuration has others."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")

RELABELLED_SNIPPET = """import json

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, pipeline

with open({labels}) as file:
    labels = {{int(index): label for index, label in json.load(file).items()}}
config = AutoConfig.from_pretrained({base}, id2label=labels)
"""
"""Comes before a task's own snippet: the base has other classes than the adapter."""


def read_adapter(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a folder; empty where it holds no adapter, or one that is not readable."""
    try:
        content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def base_on_hub(adapter: Mapping[str, Any]) -> tuple[str, str] | None:
    """Hub id and commit of an adapter's base; `None` where it is a local model."""
    source, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    is_hub = HUB_ID.fullmatch(str(source)) and COMMIT.fullmatch(str(revision))
    return (str(source), str(revision)) if is_hub else None


def model_type_of(folder: Path) -> str | None:
    """The `model_type` of a saved peer, of an adapter its base's; `None` where it is no model of transformers."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        # `transformers.models.vit.modeling_vit`
        parts = str((read_adapter(folder).get("auto_mapping") or {}).get("parent_library")).split(".")
        found = parts[2] if len(parts) > 2 else None
    return str(found) if found else None


def without_local_base(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """The same for the Hub: a path on this machine says nothing there, and its name could be somebody else's model."""
    return dict(adapter) | ({} if base_on_hub(adapter) else {"base_model_name_or_path": None, "revision": None})


def relabelled(snippet: str, folder: Path, words: TaskWords, repository: str | None = None) -> str | None:
    """A task's snippet for an adapter whose classifier is a new one, or a peer that reads names; for others as it is.

    Args:
        snippet (`str`): code that calls `pipeline(TASK, model={model})`.
        folder (`Path`): of the peer.
        words ([`TaskWords`]): of the task.
        repository (`str`, *optional*): where it is pushed to; the code reads the folder when unset.

    Returns:
        `str`: code with `{model}` and `{example}`; `None` where the task's code is none that could be adapted.
    """
    if reads := reads_of(folder):
        return reads.snippet
    if not (folder / LABELS).is_file():
        return snippet
    if "model={model})" not in snippet or not words.auto_model:
        return None
    adapter = read_adapter(folder)
    base = json.dumps(adapter.get("base_model_name_or_path"))
    base += f", revision={json.dumps(adapter['revision'])}" if adapter.get("revision") else ""
    labels = f'hf_hub_download("{repository}", "{LABELS}")' if repository else json.dumps(str(folder / LABELS))
    begin = RELABELLED_SNIPPET.format(labels=labels, base=base).replace("{", "{{").replace("}", "}}")
    # A pipeline that is given the adapter's name makes the base with the base's classes, whatever its configuration.
    begin = begin.replace("AutoConfig, pipeline", f"AutoConfig, {words.auto_model}, pipeline")
    begin += f"model = {words.auto_model}.from_pretrained({{model}}, config=config, ignore_mismatched_sizes=True)\n"
    end = snippet.replace("from transformers import pipeline\n\n", "")
    return begin + end.replace("model={model})", f"model=model, {words.processor}={{model}})")
