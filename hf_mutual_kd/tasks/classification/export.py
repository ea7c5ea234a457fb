"""Export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..exporting import Batch, Counted, TaskExport, _equal


class ClassificationExport(TaskExport):
    """A classifier: a prediction is a class."""

    batch_size = 32

    def predictions(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        return list(outputs["logits"].argmax(1))

    def alike(self, predictions: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        return _equal(predictions, others)

    def right(self, predictions: Sequence[Tensor], batch: Batch) -> Counted:
        if self.own_ids is None:
            return 0.0, 0
        labels = batch["labels"]
        known = labels >= 0
        return _equal(torch.stack(list(predictions))[known], self.own_ids[labels[known]])


class SetPredictions(ClassificationExport):
    """A classifier of several labels: a prediction says yes or no to each class; comes first among the bases."""

    def predictions(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        return list(outputs["logits"] > 0)

    def right(self, predictions: Sequence[Tensor], batch: Batch) -> Counted:
        if self.own_ids is None:
            return 0.0, 0
        labels = batch["labels"]
        known = (labels >= 0).all(1)
        return _equal(torch.stack(list(predictions))[known][:, self.own_ids], labels[known] == 1)
