"""What evaluations of maps count alike: samples, their loss, and who would teach them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class SampleCounts:
    """
    Counts over the samples of an evaluation.

    Args:
        peers (`int`): N.

    Attributes:
        samples, labelled (`int`): how many there were, and how many of them have a label.
    """

    def __init__(self, peers: int):
        self.samples = self.labelled = 0
        self._loss = torch.zeros(peers, dtype=torch.float64)
        self._taught = torch.zeros(peers, dtype=torch.long)

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Take in a batch with its `labelled` `[B]`, `loss` `[B, N]` and `teacher` `[B]`, negative for nobody."""
        labelled = batch["labelled"]
        self.samples += len(labelled)
        self.labelled += int(labelled.sum())
        self._loss += batch["loss"][labelled].double().sum(0)
        teacher = batch["teacher"][labelled]
        self._taught += torch.bincount(teacher[teacher >= 0], minlength=len(self._taught))

    def of(self, peer: int) -> dict[str, float]:
        """A peer's mean loss, and the share of labelled samples on which it has the best score."""
        return {
            "loss": float(self._loss[peer]) / self.labelled,
            "expected_share": int(self._taught[peer]) / self.labelled,
        }
