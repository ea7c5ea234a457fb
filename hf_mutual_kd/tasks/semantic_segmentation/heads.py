"""Which models can be peers of semantic segmentation, what their labels are, and the task that OneFormer asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import PeerError
from .outputs import OUT_OF_SCOPE, HeadKind

QUERY_HEADS = ("maskformer", "mask2former", "eomt", "eomt_dinov3", "oneformer")
"""Model types whose heads give class and mask logits for a set of queries."""
SEMANTIC_CLASSES = ("ForSemanticSegmentation", "ForUniversalSegmentation", "MaskFormerForInstanceSegmentation")
"""How the names of the model classes of transformers end that can be peers."""


def head_of(model: nn.Module, name: str | None = None) -> HeadKind:
    """
    The kind of a peer's head, or an error for one that is out of scope.

    In scope are the classes of `AutoModelForSemanticSegmentation` and MaskFormer, Mask2Former, EoMT and OneFormer. Any
    module that is not of transformers is taken for a per-pixel head; what it returns is checked when it runs.

    Args:
        model (`nn.Module`): the peer.
        name (`str`, *optional*): the peer's name, for messages.

    Returns:
        `"pixel"` or `"query"`, the `kind` of [`~dense_outputs.dense_log_probs`].

    Raises:
        [`PeerError`]: another head, or fewer than two classes.

    Example:

    ```python
    >>> head_of(Mask2FormerForUniversalSegmentation(config))
    'query'
    ```
    """
    peer = "The model" if name is None else f"Peer {name!r}"
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    kind = type(model).__name__
    if model_type in OUT_OF_SCOPE:
        raise PeerError(
            f"{peer} is a {kind} ({model_type}), which cannot be a peer of semantic segmentation: "
            f"{OUT_OF_SCOPE[model_type]}. {_in_scope()}"
        )
    if type(model).__module__.startswith("transformers.") and not kind.endswith(SEMANTIC_CLASSES):
        raise PeerError(f"{peer} is a {kind}, which does not segment by classes. {_in_scope()}")
    classes = getattr(config, "num_labels", 2)
    if model_type is not None and classes < 2:
        raise PeerError(
            f"{peer} ({kind}) has {classes} label(s), a binary head with one sigmoid logit; a peer needs two "
            "classes or more."
        )
    return "query" if model_type in QUERY_HEADS else "pixel"


def with_task_input(inputs: Mapping[str, Any], processor: Any, length: int | None = None) -> dict[str, Any]:
    """
    The inputs of a OneFormer with the sentence that asks it for semantic segmentation.

    Args:
        inputs (`Mapping`): a batch with `pixel_values` `[B, 3, H, W]`; `task_inputs` in it are replaced.
        processor (`OneFormerProcessor` or its tokenizer): turns the sentence into token ids.
        length (`int`, *optional*): `config.task_seq_len` of the model; the processor's, or 77, when unset.

    Returns:
        `dict`: a copy of `inputs` with `task_inputs` `[B, length]`, int64: the ids, 0 where there is padding.

    Raises:
        [`PeerError`]: a processor without a tokenizer.

    Example:

    ```python
    >>> with_task_input({"pixel_values": torch.zeros(2, 3, 64, 64)}, processor)["task_inputs"].shape
    torch.Size([2, 77])
    ```
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise PeerError(
            f"OneFormer is told its task in words and needs a tokenizer, which {type(processor).__name__} has not. "
            "Load the processor with AutoProcessor, not AutoImageProcessor."
        )
    length = length or getattr(processor, "task_seq_length", 77)
    tokens = tokenizer(["the task is semantic"], padding="max_length", max_length=length, truncation=True)
    ids = torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])
    images = inputs["pixel_values"]
    return {**inputs, "task_inputs": ids.expand(len(images), -1).contiguous().to(images.device)}


def _in_scope() -> str:
    heads = "MaskFormer, Mask2Former, EoMT, OneFormer"
    return f"Peers can be models of AutoModelForSemanticSegmentation, {heads}, and modules with [B, C, h, w] logits."
