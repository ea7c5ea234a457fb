"""Streams the evaluation of classifiers: running sums, and what is remembered of single samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ...data.images import UNREADABLE
from ...errors import DataError
from ...reports.predictions import single_outputs
from ...reports.samples import UNIT, SampleRecorder
from ..base import Evaluator
from ..remembered_rows import RememberedRows
from .metrics import Agreement, Flips, Mean, TopK


class ClassificationEvaluator(Evaluator):
    """Per peer: accuracy, top-5, loss, flips against the start, agreement; for the cohort: ensemble and oracle.

    `expected_share` is the share of samples on which a peer has the best score. Only the evaluator of the start
    remembers single samples ([`RememberedRows`]).
    """

    metrics = ("accuracy", "top5_accuracy", "loss")

    def __init__(self, peer_names: Sequence[str], num_classes: int, start: ClassificationEvaluator | None = None):
        self.peer_names = list(peer_names)
        self.start = start
        self.samples = self.labelled = 0
        self.rows = RememberedRows()
        self.single, self.units = SampleRecorder(), SampleRecorder(UNIT)
        self.top1 = {name: TopK(k=1) for name in peer_names}
        self.top5 = {name: TopK(k=5) for name in peer_names}
        self.loss = {name: Mean() for name in peer_names}
        self.flips = {name: Flips() for name in peer_names}
        self.agreement = {name: Agreement() for name in peer_names}
        self.ensemble, self.oracle = TopK(k=1), Agreement()
        self.taught = np.zeros(len(self.peer_names), dtype=np.int64)
        self.class_rows = np.zeros(num_classes, dtype=np.int64)
        self.class_right = np.zeros((num_classes, len(self.peer_names)), dtype=np.int64)

    def add(self, facts: dict[str, Tensor]) -> None:
        readable = (facts["labels"] != UNREADABLE).cpu().numpy()
        batch = {key: value.cpu().numpy()[readable] for key, value in facts.items()}
        self.single.add(**single_outputs(batch))
        labels, ensemble, top5 = batch["labels"], batch["ensemble"], batch["top5"]
        self.samples += len(labels)
        self.labelled += int((labels >= 0).sum())
        if 0 < self.labelled < self.samples:
            sample = batch["sample_ids"][labels < 0]
            named = f"sample {sample[0]}" if len(sample) else "a sample"
            raise DataError(f"{named} of an evaluation split has no label; every row that measures needs one, or none")
        for index, name in enumerate(self.peer_names):
            self.agreement[name].add_batch(predictions=top5[:, index, 0], references=ensemble)
        if self.labelled:
            self._measure(batch, labels, top5)

    def _measure(self, batch: dict[str, np.ndarray], labels: np.ndarray, top5: np.ndarray) -> None:
        right = top5[:, :, 0] == labels[:, None]
        for index, name in enumerate(self.peer_names):
            self.top1[name].add_batch(predictions=top5[:, index], references=labels)
            self.top5[name].add_batch(predictions=top5[:, index], references=labels)
            self.loss[name].add_batch(predictions=batch["loss"][:, index])
        self.ensemble.add_batch(predictions=batch["ensemble"], references=labels)
        self.units.add(id=batch["sample_ids"].astype(np.int64), sums=self._sums(batch, right))
        self.oracle.add_batch(predictions=right.any(1), references=np.ones_like(labels))
        self.taught += np.bincount(batch["teacher"] + 1, minlength=len(self.peer_names) + 1)[1:]
        np.add.at(self.class_rows, labels, 1)
        np.add.at(self.class_right, labels, right)
        self._count_flips(batch["sample_ids"], right)

    def _sums(self, batch: dict[str, np.ndarray], right: np.ndarray) -> np.ndarray:
        """What each sample adds to `metrics` of every peer and the ensemble, and 1 for each that it adds to."""
        sums = np.zeros((*right.shape, 2 * len(self.metrics)), np.float32)
        top5 = (batch["top5"] == batch["labels"][:, None, None])[:, :, :5].any(2)
        sums[..., :3] = np.stack([right, top5, batch["loss"]], axis=2)
        sums[..., 3:] = 1
        together = np.zeros_like(sums[:, :1])
        together[:, 0, 0], together[:, 0, 3] = batch["ensemble"] == batch["labels"], 1
        return np.concatenate([sums, together], axis=1)

    def records(self) -> dict[str, np.ndarray]:
        """What every peer took each sample for, and what it adds to the metrics."""
        return self.single.joined() | self.units.joined()

    def _count_flips(self, sample_ids: np.ndarray, right: np.ndarray) -> None:
        if self.start is None:
            self.rows.add(sample_ids, right)
            return
        known, before = self.start.rows.lookup(sample_ids)
        if not len(known):
            return
        for index, name in enumerate(self.peer_names):
            self.flips[name].add_batch(predictions=right[known, index], references=before[:, index])

    def sample_scores(self) -> np.ndarray:
        return self.rows.sorted()[1].astype(np.float64)

    def by_class(self) -> dict[str, list[float | None]]:
        shares = self.class_right / self.class_rows.clip(min=1)[:, None]
        seen = self.class_rows > 0
        return {
            name: [float(share) if known else None for share, known in zip(shares[:, index], seen, strict=True)]
            for index, name in enumerate(self.peer_names)
        }

    def compute(self) -> dict[str, dict[str, float]]:
        if not self.samples:
            raise DataError("an evaluation split has no rows")
        results: dict[str, dict[str, float]] = {
            name: {"agreement": self.agreement[name].compute()["agreement"]} for name in self.peer_names
        }
        results["cohort"] = {"samples": self.samples}
        if not self.labelled:
            return results
        for index, name in enumerate(self.peer_names):
            results[name] |= {
                "accuracy": self.top1[name].compute()["accuracy"],
                "top5_accuracy": self.top5[name].compute()["accuracy"],
                "loss": self.loss[name].compute()["mean"],
                "expected_share": float(self.taught[index] / self.samples),
            }
            if self.start is not None:
                flips = self.flips[name].compute()
                results[name] |= {key: flips[key] for key in ("positive_flips", "negative_flips") if key in flips}
        results["cohort"] |= {
            "ensemble_accuracy": self.ensemble.compute()["accuracy"],
            "oracle_accuracy": self.oracle.compute()["agreement"],
        }
        return results
