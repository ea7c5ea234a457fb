"""A peer's `config.json`, looked at before transformers builds anything of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, PreTrainedConfig

from ..errors import PeerError
from ..files import read_json
from .spec import PeerSpec
from .timm import plain_config

MOST_CLASSES = 1_000_000
"""More are a damaged file: transformers makes a name for each, until the memory is full."""


def read_config(name: str, spec: PeerSpec, trust_remote_code: bool) -> Any:
    """The configuration of a checkpoint.

    Raises:
        [`PeerError`]: it is damaged, or says what no model can be built of.
    """
    folder = Path(spec.source)
    path = (
        folder / "config.json"
        if folder.is_dir()
        else hf_hub_download(spec.source, "config.json", revision=spec.revision)
    )
    settings = read_json(path, error=PeerError, advice=f"restore it, or give another model as peer {name!r}")
    for key in ("num_labels", "num_classes"):
        count = settings.get(key)
        if count is not None and not (type(count) is int and 0 <= count <= MOST_CLASSES):
            raise PeerError(
                f"peer {name!r}: config.json of {spec.source} says {key} {str(count)[:40]}; expected a number of "
                f"classes up to {MOST_CLASSES:,}"
            )
    classes = settings.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
        raise PeerError(
            f"peer {name!r}: config.json of {spec.source} says architectures {str(classes)[:40]}; expected a "
            "list with the name of its class"
        )
    config = plain_config(
        AutoConfig.from_pretrained(spec.source, revision=spec.revision, trust_remote_code=trust_remote_code)
    )
    names = getattr(config, "id2label", None)
    if names and config.num_labels != len(names):
        # Pvt has a field for it, whose default wins over the names that were saved.
        config.num_labels = len(names)
        config.id2label = names
    parts = (getattr(config, part, None) for part in getattr(config, "sub_configs", ()))
    for part in (config, *(part for part in parts if isinstance(part, PreTrainedConfig))):
        # Outputs are looked up by name; a tuple of tensors does not say what they are.
        part.return_dict = True
    return config


def input_channels(config: Any) -> int:
    """How many channels the images of a model have."""
    for arguments in (getattr(config, "model_args", None) or {}, getattr(config, "vision_config", config)):
        found = arguments.get("in_chans") if isinstance(arguments, dict) else getattr(arguments, "num_channels", None)
        if isinstance(found, int):
            return found
    return 3
