"""Batch norms of peers: where their statistics rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.utils import logging

BATCH_NORMS = nn.modules.batchnorm._BatchNorm
logger = logging.get_logger(__name__)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """All batch-norm layers of a model."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


@contextlib.contextmanager
def resting_batch_norms(model: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are while activations are recomputed: the first pass has updated them."""
    layers: list[Any] = [layer for layer in batch_norms(model) if layer.track_running_stats]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked


def rest_on_single_values(model: nn.Module) -> None:
    """Let each batch norm use its running statistics where it is given one value per channel, which has no variance.

    That is what comes after global pooling where one row is in a batch, the last of an epoch, say; torch raises there.
    The running statistics stay as they are. The layers of a model are prepared once, and so are copies of them.
    """
    layer: Any
    for layer in batch_norms(model):
        if not isinstance(layer, nn.SyncBatchNorm) and not hasattr(layer, "had_single_values"):
            layer.had_single_values = False
            layer.register_forward_pre_hook(_rest)
            layer.register_forward_hook(_go_on, always_call=True)


def _rest(layer: Any, given: tuple[Any, ...]) -> None:
    if layer.training and layer.running_mean is not None and given and given[0].numel() == given[0].shape[1]:
        layer.had_single_values, layer.training = True, False
        logger.warning_once(
            "a batch norm after global pooling had one row in its batch and used its running statistics for it; "
            "larger batches, or dataloader_drop_last, avoid that"
        )


def _go_on(layer: Any, given: tuple[Any, ...], output: Any) -> None:
    if layer.had_single_values:
        layer.had_single_values, layer.training = False, True
