"""What the peers of a cohort say of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.images import decode_image
from ..data.processors import PeerProcessors
from ..errors import ConfigError

if TYPE_CHECKING:
    from .cohort import Cohort


@torch.inference_mode()
def predict(cohort: Cohort, images: Sequence[Any]) -> dict[str, Tensor]:
    """See [`Cohort.predict`]."""
    if not cohort.task.has_classes:
        raise ConfigError(f"predict is for tasks with classes, which {cohort.task.name} has none of")
    cells = [{"bytes": None, "path": str(one)} if isinstance(one, str | Path) else one for one in images]
    inputs = PeerProcessors(cohort.processors)([decode_image(cell) for cell in cells])
    was_training, device = cohort.training, next(cohort.peers.parameters()).device
    try:
        outputs = cohort.eval()(inputs.to(device)).outputs
    finally:
        cohort.train(was_training)
    logits = [cohort.task.logits(outputs[name]) for name in cohort.names]
    labels = cohort.task.no_labels(logits[0])
    found = {name: one.exp() for name, one in zip(cohort.names, cohort.task.log_probs(logits, labels)[0], strict=True)}
    return {**found, "cohort": torch.stack(list(found.values())).mean(0)}
