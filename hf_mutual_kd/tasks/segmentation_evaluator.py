"""Streams the evaluation of segmentation peers: confusion matrices and counts, never maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError
from ..metrics.segmentation import SegmentationScores
from .base import Evaluator


class SegmentationEvaluator(Evaluator):
    """Per peer `mIoU`, `fwIoU`, `mACC`, `pACC`, loss, agreement; for the cohort the ensemble's mIoU and the oracle.

    `loss` is the mean over images of the cross-entropy that ranks the peers; `agreement` the share of pixels on which
    a peer says what the peers' mean says; `expected_share` the share of images on which it has the best score;
    `oracle_pACC` the share of pixels that any peer gets right. Classes that do not occur in the truth are left out.
    """

    def __init__(self, peer_names: Sequence[str], num_classes: int):
        self.peer_names = list(peer_names)
        self.samples = self.labelled = 0
        peers = len(self.peer_names)
        self.confusion = torch.zeros(peers + 1, num_classes, num_classes, dtype=torch.long)
        self.agreeing, self.taught = torch.zeros(peers, dtype=torch.long), torch.zeros(peers, dtype=torch.long)
        self.loss = torch.zeros(peers, dtype=torch.float64)
        self.pixels = self.any_right = 0

    def add(self, facts: dict[str, Tensor]) -> None:
        batch = {key: value[facts["readable"]].cpu() for key, value in facts.items()}
        labelled = batch["labelled"]
        self.samples += len(labelled)
        self.labelled += int(labelled.sum())
        self.pixels += int(batch["pixels"].sum())
        self.agreeing += batch["agreeing"].sum(0)
        self.confusion += batch["confusion"].sum(0)
        self.any_right += int(batch["any_right"].sum())
        self.loss += batch["loss"][labelled].double().sum(0)
        teacher = batch["teacher"][labelled]
        self.taught += torch.bincount(teacher[teacher >= 0], minlength=len(self.peer_names))

    def compute(self) -> dict[str, dict[str, float]]:
        if not self.samples:
            raise DataError("an evaluation split has no rows")
        results: dict[str, dict[str, float]] = {
            name: {"agreement": int(agreeing) / self.pixels}
            for name, agreeing in zip(self.peer_names, self.agreeing, strict=True)
        }
        results["cohort"] = {"samples": self.samples}
        if not self.labelled:
            return results
        *peers, ensemble = (self._scores(matrix) for matrix in self.confusion)
        for index, (name, scores) in enumerate(zip(self.peer_names, peers, strict=True)):
            results[name] |= {key: scores[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")}
            results[name] |= {
                "loss": float(self.loss[index]) / self.labelled,
                "expected_share": int(self.taught[index]) / self.labelled,
            }
        results["cohort"] |= {
            "ensemble_mIoU": ensemble["mIoU"],
            "oracle_pACC": self.any_right / int(self.confusion[0].sum()),
        }
        return results

    def by_class(self) -> dict[str, list[float | None]]:
        return {
            name: self._scores(matrix).get("per_class_iou", [None] * len(matrix))
            for name, matrix in zip(self.peer_names, self.confusion, strict=False)
        }

    def _scores(self, matrix: Tensor) -> dict:
        scores = SegmentationScores(len(matrix))
        scores.merge({"confusion": matrix})
        return scores.compute()
