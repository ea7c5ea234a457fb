"""Streams the evaluation of segmentation peers: confusion matrices and counts, never maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...reports.samples import BINS, UNIT, SampleRecorder
from ..base import Evaluator
from ..counting import SampleCounts
from ..remembered_rows import RememberedRows
from .metrics import SegmentationScores

MOST_IMAGES = 20_000
"""Images of which the start remembers which pixels of a lattice were right, the first that it meets: 512 bytes each
for every peer."""
MOST_SUMS = 2**26
"""Bytes of the images' right, predicted and true pixels of each class that are kept; 1,000 images always are."""


class SegmentationEvaluator(Evaluator):
    """Per peer `mIoU`, `fwIoU`, `mACC`, `pACC`, loss, agreement; for the cohort the ensemble's mIoU and the oracle.

    `loss` is the mean over images of the cross-entropy that ranks the peers; `agreement` the share of pixels on which
    a peer says what the peers' mean says; `expected_share` the share of images on which it has the best score;
    `oracle_pACC` the share of pixels that any peer gets right. Classes that do not occur in the truth are left out.
    """

    statistic = "overlaps"
    metrics = ("mIoU", "fwIoU", "mACC", "pACC")

    def __init__(self, peer_names: Sequence[str], num_classes: int, start: SegmentationEvaluator | None = None):
        self.peer_names = list(peer_names)
        self.start = start
        peers = len(self.peer_names)
        self.counts = SampleCounts(peers)
        self.confusion = torch.zeros(peers + 1, num_classes, num_classes, dtype=torch.long)
        self.agreeing = torch.zeros(peers, dtype=torch.long)
        self.pixels = self.any_right = 0
        self.single, self.lattices = SampleRecorder(), RememberedRows()
        most = max(1000, MOST_SUMS // (12 * num_classes * (peers + 1)))
        self.units = SampleRecorder(UNIT, most)
        self.reliability = torch.zeros(peers, 3, BINS, dtype=torch.float64)
        self.points = np.zeros(num_classes, np.int64)
        self.flips = np.zeros((peers, num_classes, 3), np.int64)
        """Of every peer and class the points of the lattice that were learned, lost, and learned of those that another
        peer had right at its start."""

    def add(self, facts: dict[str, Tensor]) -> None:
        batch = {key: value[facts["readable"]].cpu() for key, value in facts.items()}
        self.counts.add(batch)
        self.pixels += int(batch["pixels"].sum())
        self.agreeing += batch["agreeing"].sum(0)
        self.confusion += batch["confusion"].sum(0)
        self.any_right += int(batch["any_right"].sum())
        self.reliability += batch["reliability"].double().sum(0)
        self._record({key: value[batch["labelled"]].numpy() for key, value in batch.items()})

    def _record(self, images: Mapping[str, np.ndarray]) -> None:
        """Keep the numbers of labelled images, and compare the lattices with those of the start."""
        counts = images["confusion"][:, :-1]
        right = counts.diagonal(axis1=2, axis2=3).sum(2) / counts.sum((2, 3)).clip(min=1)
        self.single.add(
            id=images["sample_ids"], score=right.astype(np.float32), loss=images["loss"], teacher=images["teacher"]
        )
        pixels = images["confusion"]
        sums = np.stack([pixels.diagonal(axis1=2, axis2=3), pixels.sum(2), pixels.sum(3)], axis=2).astype(np.int32)
        self.units.add(id=images["sample_ids"], sums=sums)
        if self.start is not None:
            self._count_flips(self.start.lattices, images)
        elif len(self.lattices) < MOST_IMAGES:
            self.lattices.add(images["sample_ids"], np.packbits(images["point_right"], axis=2))

    def _count_flips(self, start: RememberedRows, images: Mapping[str, np.ndarray]) -> None:
        known, packed = start.lookup(images["sample_ids"])
        if not len(known):
            return
        before = np.unpackbits(packed, axis=2).astype(bool)
        now, truth = images["point_right"][known], images["point_class"][known]
        classes = len(self.points)
        self.points += np.bincount(truth[truth >= 0], minlength=classes)
        somebody = before.any(1)
        for peer, counts in enumerate(self.flips):
            learned, lost = now[:, peer] & ~before[:, peer], before[:, peer] & ~now[:, peer]
            for column, changed in enumerate((learned, lost, learned & somebody)):
                counts[:, column] += np.bincount(truth[changed], minlength=classes)

    def records(self) -> dict[str, np.ndarray]:
        """Confusions `[K, 4]` (peer, truth, guess, pixels), sums of reliability `[N, 3, BINS]`, flips `[N, C, 3]` of
        the compared `points` `[C]`, and for every image the share of right pixels, loss and who would teach."""
        single = self.single.joined()
        if not single:
            return {}
        counts = self.confusion[:-1].numpy()
        found = np.nonzero(counts)
        sums = {"confusions": np.stack([*found, counts[found]], axis=1), "reliability": self.reliability.numpy()}
        compared = {"flips": self.flips, "points": self.points} if self.start is not None else {}
        return sums | compared | single | self.units.joined()

    def compute(self) -> dict[str, dict[str, float]]:
        if not self.counts.samples:
            raise DataError("an evaluation split has no rows")
        results: dict[str, dict[str, float]] = {
            name: {"agreement": int(agreeing) / self.pixels}
            for name, agreeing in zip(self.peer_names, self.agreeing, strict=True)
        }
        results["cohort"] = {"samples": self.counts.samples}
        if not self.counts.labelled:
            return results
        *peers, ensemble = (self._scores(matrix) for matrix in self.confusion)
        for index, (name, scores) in enumerate(zip(self.peer_names, peers, strict=True)):
            results[name] |= {key: scores[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")}
            results[name] |= self.counts.of(index)
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
