"""Export."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..exporting import Batch, Counted, TaskExport
from .data.truth_batches import DENSITY, has_density, is_readable, split_truths
from .metrics.functions import cc
from .model.losses import resample_log_density
from .model.modeling_video_saliency import VideoSaliencyOutput
from .outputs import log_maps


class SaliencyExport(TaskExport):
    """A model of where people look: a prediction is the log-density of the target frame."""

    batch_size = 2

    def predictions(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        return list(log_maps(self.name, self.model, VideoSaliencyOutput(logits=outputs["logits"])))

    def alike(self, predictions: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        pairs = zip(predictions, others, strict=True)
        found = [_cc(prediction, resample_log_density(other, other.shape).exp()) for prediction, other in pairs]
        known = [value for value in found if not math.isnan(value)]
        return sum(known), len(known)

    def right(self, predictions: Sequence[Tensor], batch: Batch) -> Counted:
        """CC with the truth, over clips at whose target somebody looked."""
        labels = batch["labels"]
        looked_at = (is_readable(labels) & has_density(labels)).tolist()
        clips = zip(predictions, split_truths(labels), looked_at, strict=True)
        found = [_cc(prediction, truth[DENSITY]) for prediction, truth, counts in clips if counts]
        return sum(found), len(found)


def _cc(prediction: Tensor, density: Tensor) -> float:
    """CC of a log-density with a density, at the latter's size: 0 where it is not finite, NaN for a flat density."""
    found = resample_log_density(prediction, density.shape).exp()
    return cc(found.numpy(), density.numpy()) if bool(found.isfinite().all()) else 0.0
