"""Image classification: a unit is an image, logits are `[B, C]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from ...config.options import TransferOptions
from ...data.collator import RoleTaggingCollator
from ...data.columns import check_classes
from ...data.images import UNREADABLE, decode_image
from ...data.views import SharedView
from ...distillation.label_alignment import ClassColumns
from ...distillation.roles import assign_roles, margin_scores
from ...distillation.units import ClassUnits
from ...errors import DataError
from ...reports.making_section import making_section
from ...reports.pictures import thumbnail
from ...reports.predictions import single_beliefs
from ...reports.results_section import results_section, training_section
from ...reports.samples import UNIT, SampleRecorder
from ...reports.teaching_section import corrections_section, teaching_section
from ..base import Evaluator, Task
from ..remembered_rows import RememberedRows
from .encoders import classifier_on, takes_encoder
from .export import ImageExport
from .metrics import Agreement, Flips, Mean, TopK
from .model import auto  # noqa: F401  (the Auto classes learn our classifier)
from .report import calibration_section, confusion_section, flips_section
from .space import ClassificationSpace
from .words import WORDS

NO_LABEL = -1


class ImageClassification(ClassUnits, Task):
    """Peers of `AutoModelForImageClassification`, timm models through it, and any module that returns `[B, C]`."""

    name = "image-classification"
    auto_models = (AutoModelForImageClassification,)
    words = WORDS
    quality_name = "accuracy"
    default_score = "margin"
    has_classes = True
    collator_class = RoleTaggingCollator
    report_sections = (
        results_section,
        training_section,
        teaching_section,
        corrections_section,
        flips_section,
        calibration_section,
        confusion_section,
        making_section,
    )
    exporter = ImageExport
    space = ClassificationSpace()

    def thumbnail(self, row: Mapping[str, Any]) -> bytes | None:
        return thumbnail(decode_image(row["image"]))

    def check_labels(self, rows: Any, name: str, classes: int) -> None:
        check_classes(rows, name, classes)

    def view(self, options: TransferOptions, processors: Mapping[str, Any], seed: int) -> SharedView:
        return SharedView(min_area=options.crop_min_area, color_jitter=options.color_jitter, seed=seed)

    def answer(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> Tensor:
        outputs = model(**inputs)
        logits = outputs.logits if hasattr(outputs, "logits") else outputs
        return columns.select(logits)

    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        logits = self.answer(model, inputs, columns)
        return logits, F.cross_entropy(
            logits.float(),
            labels.clamp_min(NO_LABEL),
            reduction="none",
            ignore_index=NO_LABEL,
            label_smoothing=label_smoothing,
        )

    def no_labels(self, belief: Tensor) -> Tensor:
        return torch.full((len(belief),), NO_LABEL, device=belief.device)

    def kept_scores(self, beliefs: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        # One by one: a peer's scores must be the same whichever others are scored with it.
        confidence = torch.cat([self.scores("confidence", [belief], None) for belief in beliefs])
        chosen = torch.stack([belief.argmax(1) for belief in beliefs])
        return {
            "margin": torch.cat([self.scores("margin", [belief], labels) for belief in beliefs]),
            "confidence": confidence,
            "prediction": chosen.masked_fill(~confidence.isfinite(), -1).int(),
        }

    def quality(self, answers: Sequence[Tensor], labels: Tensor) -> Tensor:
        return torch.stack([(peer.argmax(1) == labels).sum() for peer in answers])

    def evaluation_facts(self, answers: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        stacked = torch.stack([peer.float() for peer in answers])
        log_probs = stacked.log_softmax(-1)
        truth = labels.clamp_min(0).expand(len(answers), -1).unsqueeze(-1)
        loss = -log_probs.gather(-1, truth).squeeze(-1)
        # A broken peer is wrong everywhere, and so is an ensemble of nothing else.
        broken = loss.isnan()
        top5 = stacked.topk(min(5, stacked.shape[-1])).indices.masked_fill(broken.unsqueeze(-1), -1)
        return {
            "sample_ids": sample_ids,
            "labels": labels,
            "top5": top5.transpose(0, 1).contiguous(),
            "loss": loss.T.contiguous(),
            "confidence": log_probs.amax(-1).exp().T.contiguous(),
            "ensemble": log_probs.exp().nanmean(0).argmax(-1).masked_fill(broken.all(0), -1),
            "teacher": assign_roles(margin_scores(stacked, labels)),
        }

    def evaluator(
        self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None
    ) -> ClassificationEvaluator:
        start = start if isinstance(start, ClassificationEvaluator) else None
        return ClassificationEvaluator(peer_names, num_classes, start)

    def takes_encoder(self, config: Any) -> bool:
        return super().takes_encoder(config) or takes_encoder(config)

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        if not super().takes_encoder(config):
            return classifier_on(source, config, label_names, **load)
        model: Any
        model, drawn = super().new_head(source, config, label_names, **load)
        if getattr(model.config, "label_names", None) is not None:
            # The wrapper of timm models keeps the source's names here and saves them in place of id2label.
            model.config.label_names = list(label_names)
        return model, drawn


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
        self.single.add(**single_beliefs(batch))
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
