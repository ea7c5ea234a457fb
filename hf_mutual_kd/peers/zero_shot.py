"""Peers that read the names of the classes: which checkpoints are, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoTokenizer
from transformers.utils import logging

from ..config.prompts import templates_of
from ..distillation.label_alignment import label_list
from ..errors import PeerError
from ..tasks.base import Task
from ..tasks.new_heads import drawn_weights
from ..tasks.zero_shot import ZeroShot, zero_shot_class
from .spec import PeerSpec

logger = logging.get_logger(__name__)

TOKENIZER = "tokenizer_config.json"


def reads_labels(name: str, spec: PeerSpec, config: Any, task: Task) -> bool:
    """Whether a checkpoint classifies by its text tower: it has one, and the tokenizer, and the user says no other.

    Raises:
        [`PeerError`]: the user says so of a checkpoint that cannot, or gives templates to one that does not.
    """
    able = task.reads_labels(config)
    found = able and spec.zero_shot is not False and _has_tokenizer(spec)
    if not found and (spec.zero_shot or spec.prompt_templates):
        kind = (getattr(config, "architectures", None) or [config.model_type])[0]
        lacks = f"{spec.source} has no {TOKENIZER}" if able else f"it is a {kind}, which has no text tower"
        asked = "zero_shot" if spec.zero_shot else "prompt_templates"
        raise PeerError(f"peer {name!r} cannot read the names of the classes: {lacks}; leave out {asked}")
    if able and not found:
        why = "zero_shot is false" if spec.zero_shot is False else f"{spec.source} has no {TOKENIZER}"
        logger.warning_once(f"peer {name!r} is an image-text model without its text tower, as {why}")
    return found


def load_zero_shot(
    name: str, spec: PeerSpec, config: Any, load: dict[str, Any], label_names: Sequence[str] | None
) -> ZeroShot:
    """
    An image-text model with the classifier that its text tower makes of the names.

    Args:
        name (`str`): the peer's.
        spec ([`PeerSpec`]): at its commit.
        config: of the checkpoint; one that was saved by this package says names and templates.
        load (`dict`): for `from_pretrained`.
        label_names (`list[str]`, *optional*): the data set's; unset those that the checkpoint was saved with.

    Raises:
        [`PeerError`]: nobody says the names, or weights are missing.
    """
    saved = getattr(config, "prompt_templates", None)
    names = list(label_names or (label_list(config) if saved else ()))
    if not names or all(one == f"LABEL_{at}" for at, one in enumerate(names)):
        raise PeerError(
            f"peer {name!r} reads the names of the classes, and nobody says them: give --label_names, or a data set "
            f"that names its classes; --peers.{name}.zero_shot false gives it a new head"
        )
    templates = templates_of(spec.prompt_templates or saved)
    model, report = zero_shot_class(config).from_pretrained(
        spec.source, config=config, output_loading_info=True, **load
    )
    if missing := drawn_weights(report):
        raise PeerError(f"peer {name!r}: {spec.source} lacks weights for {len(missing)} parameters ({missing[0]}, …)")
    tokenizer = AutoTokenizer.from_pretrained(
        spec.source, revision=spec.revision, trust_remote_code=load["trust_remote_code"]
    )
    model.name_classes(names, templates, tokenizer)
    shown = f"{len(templates)} templates" if len(templates) > 1 else repr(templates[0])
    logger.warning_once(f"peer {name!r} reads the names of the {len(names)} classes, in {shown}; it gets no new head")
    return model


def _has_tokenizer(spec: PeerSpec) -> bool:
    if Path(spec.source).is_dir():
        return (Path(spec.source) / TOKENIZER).is_file()
    try:
        hf_hub_download(spec.source, TOKENIZER, revision=spec.revision)
    except EntryNotFoundError:
        return False
    return True
