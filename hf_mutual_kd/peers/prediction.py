"""What the peers of a cohort say of images, texts and other inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.inputs import Inputs
from ..errors import ConfigError

if TYPE_CHECKING:
    from .cohort import Cohort


@torch.inference_mode()
def predict(cohort: Cohort, samples: Sequence[Any]) -> dict[str, Tensor]:
    """See [`Cohort.predict`]."""
    if not cohort.task.has_classes:
        raise ConfigError(f"predict is for tasks with classes, which {cohort.task.name} has none of")
    if cohort.elsewhere:
        raise ConfigError(
            f"this process holds {', '.join(cohort.peers)} alone (peer_parallel): ask the peers that were saved, "
            'Cohort.from_pretrained("runs/…").predict(…)'
        )
    kind = cohort.task.inputs
    processors = cohort.task.collator_class.processors_class(cohort.processors)
    inputs = processors([kind.read(_row(one, kind)) for one in samples])
    was_training, device = cohort.training, next(cohort.peers.parameters()).device
    try:
        outputs = cohort.eval()(inputs.to(device)).outputs
    finally:
        cohort.train(was_training)
    found = dict(zip(cohort.names, cohort.task.probabilities([outputs[name] for name in cohort.names]), strict=True))
    return {**found, "cohort": torch.stack(list(found.values())).mean(0)}


def _row(one: Any, kind: Inputs) -> Mapping[str, Any]:
    """What is asked about as a row of a data set."""
    if isinstance(one, Mapping) and kind.column in one:
        return one
    return {kind.column: kind.cell(str(one) if isinstance(one, Path) else one)}
