"""Which files of a checkpoint may be read as weights; imports nothing of this package, as Spaces bring a copy."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

WEIGHTS = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
"""Plain names: transformers unpickles a shard of another ending, and follows a path out of the folder."""
INDEX = "model.safetensors.index.json"


class OddWeightsError(ValueError):
    """A checkpoint names something else than safetensors files of its own as its weights."""


def check_weight_files(source: str, revision: str | None = None, config: Any = None) -> None:
    """Look at what a checkpoint names as its weights before any of it is opened.

    Args:
        source (`str`): Hub id or folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        config (`PreTrainedConfig`, *optional*): the checkpoint's, which can name another file.

    Raises:
        [`OddWeightsError`]: something else than safetensors files that lie beside the configuration.
    """
    named = getattr(config, "transformers_weights", None)
    if named is not None and not (WEIGHTS.fullmatch(str(named)) or is_index(str(named))):
        raise OddWeightsError(
            f"config.json of {source} names {named!r} as weights; expected a plain name *.safetensors"
        )
    for name in {INDEX, *({str(named)} if named is not None and is_index(str(named)) else ())}:
        path = _find(source, revision, name)
        if path is not None:
            check_index(path)


def is_index(name: str) -> bool:
    """Whether a name is that of a list of shards."""
    return name.endswith(".index.json") and WEIGHTS.fullmatch(name.removesuffix(".index.json")) is not None


def check_index(path: Path) -> None:
    """Refuse a list of shards that names anything but safetensors files beside it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OddWeightsError(f"{path.name} is damaged: {error}") from None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        raise OddWeightsError(f"{path.name} is damaged: expected a weight_map from weights to files")
    for key, name in shards.items():
        if not isinstance(name, str) or not WEIGHTS.fullmatch(name):
            raise OddWeightsError(
                f"{path.name} names {str(name)[:200]!r} for {key}; shards must be plain names *.safetensors beside "
                "it, nothing else is opened"
            )


def _find(source: str, revision: str | None, name: str) -> Path | None:
    """Where a file of a checkpoint lies on this machine; `None` where it has none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.exists() or path.is_symlink() else None
    with contextlib.suppress(EntryNotFoundError):
        return Path(hf_hub_download(source, name, revision=revision))
    return None
