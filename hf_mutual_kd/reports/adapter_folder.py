"""What the folder of a saved adapter says of itself, and what of it may leave the machine. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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

FITTED = "fitted.json"
"""What was fitted to validation rows, such as thresholds; whole models keep it in config.json."""
OWN_ADAPTERS = frozenset({"wav2vec2"})
"""Model types whose `load_adapter` is for other files than peft's, so that a pipeline cannot load these."""


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


def adapted(snippet: str, folder: Path, words: TaskWords, *, place: str, on_hub: bool = False) -> str | None:
    """A task's snippet for a peer that reads names, or an adapter that no pipeline loads as it was trained.

    Pipelines build an adapter's base as it is on the Hub: with its own classes, and without what was fitted later.

    Args:
        snippet (`str`): code that calls `pipeline(TASK, model={model})`.
        folder (`Path`): of the peer.
        words ([`TaskWords`]): of the task.
        place (`str`): where the code finds the peer: a repository, or a folder.
        on_hub (`bool`): whether it is a repository, where no path of this machine is named.

    Returns:
        `str`: code with `{model}` and `{example}`; `None` where the task's code is none that could be adapted.
    """
    if reads := reads_of(folder):
        return reads.snippet
    adapter = read_adapter(folder)
    extra = [name for name in (LABELS, FITTED) if (folder / name).is_file()]
    homeless = on_hub and base_on_hub(adapter) is None
    if not adapter or not (extra or homeless or model_type_of(folder) in OWN_ADAPTERS):
        return snippet
    if "model={model})" not in snippet or not words.auto_model:
        return None
    classes, processor = [words.auto_model], "{model}"
    if words.processor == "feature_extractor":
        # By its name the pipeline would look for a decoder of letters beside a model that has no name.
        classes, processor = ["AutoFeatureExtractor", *classes], "AutoFeatureExtractor.from_pretrained({model})"
    end = snippet.replace("model={model})", f"model=model, {words.processor}={processor})")
    loading = _loading(classes, _base(adapter, on_hub), extra, place if on_hub else f"{place}/")
    return end.replace("from transformers import pipeline\n\n", loading)


def _loading(classes: Sequence[str], base: str, extra: Sequence[str], place: str) -> str:
    """Code that makes `model`, of the last class, with `{model}`; `place` is a folder where it ends with `/`."""

    def opened(name: str) -> str:
        is_folder = place.endswith("/")
        return _literal(place + name) if is_folder else f"hf_hub_download({_literal(place)}, {_literal(name)})"

    lines = ["import json", ""] if extra else []
    lines += ["from huggingface_hub import hf_hub_download"] if extra and not place.endswith("/") else []
    lines += ["from peft import PeftModel", f"from transformers import {', '.join(classes)}, pipeline", ""]
    if LABELS in extra:
        lines += [f"with open({opened(LABELS)}) as file:"]
        lines += ["    labels = {{int(index): label for index, label in json.load(file).items()}}"]
        base += ", id2label=labels, ignore_mismatched_sizes=True"
    lines += [f"base = {classes[-1]}.from_pretrained({base})"]
    lines += ["model = PeftModel.from_pretrained(base, {model}).get_base_model()"]
    if FITTED in extra:
        lines += [f"with open({opened(FITTED)}) as file:", "    model.config.update(json.load(file))"]
    return "\n".join([*lines, ""])


def _base(adapter: Mapping[str, Any], on_hub: bool) -> str:
    """An adapter's base as arguments of `from_pretrained`."""
    source, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if on_hub and base_on_hub(adapter) is None:
        return _literal(f"path/to/{Path(str(source)).name}")
    return _literal(source) + (f", revision={_literal(revision)}" if revision else "")


def _literal(value: Any) -> str:
    """As Python reads it, for a text that is formatted."""
    return json.dumps(value).replace("{", "{{").replace("}", "}}")
