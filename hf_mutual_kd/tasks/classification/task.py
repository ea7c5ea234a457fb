"""Tasks of one class for each sample, whatever the sample is: a unit is a sample, logits are `[B, C]`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config.options import RecipeOptions
from ...config.task_options import ClassOptions
from ...data.collator import RoleTaggingCollator
from ...data.columns import check_classes
from ...distillation.label_alignment import ClassColumns
from ...distillation.roles import assign_roles, margin_scores
from ...distillation.units import ClassUnits
from ...errors import PeerError
from ...reports.making_section import making_section
from ...reports.report_sections import SectionMaker
from ...reports.results_section import results_section, training_section
from ...reports.teaching_section import corrections_section, teaching_section
from ..base import Evaluator, Task
from ..logits import described, logits_of
from .evaluator import ClassificationEvaluator
from .report import calibration_section, confusion_section, flips_section

NO_LABEL = -1


class Classification(ClassUnits, Task):
    """Everything with inputs of any kind and logits `[B, C]`, from models with `logits` and modules that return them.

    A task of this kind says its `name`, `words` ([`classification_words`]), `inputs` and `auto_models`; a random
    view, pictures for the report, an exporter and a Space are its own where there are any.
    """

    problem_type: ClassVar[str] = "single_label_classification"
    """What a model's configuration says of its head where it says it."""
    quality_name = "accuracy"
    default_score = "margin"
    has_classes = True
    target = "class"
    options_class: ClassVar[type[RecipeOptions]] = ClassOptions
    teaching_weight = 3.0
    collator_class = RoleTaggingCollator
    report_sections: ClassVar[Sequence[SectionMaker]] = (
        results_section,
        training_section,
        teaching_section,
        corrections_section,
        flips_section,
        calibration_section,
        confusion_section,
        making_section,
    )

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        said = getattr(getattr(model, "config", None), "problem_type", None)
        if said not in (None, self.problem_type):
            raise PeerError(
                f"peer {name!r} was trained for {said} (problem_type), and {self.name} is {self.problem_type}; "
                "label_alignment='new_head' puts a new head on it"
            )

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        if getattr(config, "problem_type", None) is not None:
            # What the source was trained for would decide how pipelines read the new head.
            config = copy.deepcopy(config)
            config.problem_type = self.problem_type
        return super().new_head(source, config, label_names, **load)

    def check_labels(self, rows: Any, name: str, classes: int) -> None:
        check_classes(rows, name, classes)

    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> Tensor:
        outputs = model(**inputs)
        logits = logits_of(outputs, {2})
        if logits is None:
            raise PeerError(
                f"peer {columns.peer!r}: {type(model).__name__} must return logits [B, C], alone, as `logits` or "
                f"first in a tuple; it returned {described(outputs)}"
            )
        return columns.select(logits)

    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        logits = self.outputs(model, inputs, columns)
        return logits, F.cross_entropy(
            logits.float(),
            columns.known_labels(labels, NO_LABEL).clamp_min(NO_LABEL),
            reduction="none",
            ignore_index=NO_LABEL,
            label_smoothing=label_smoothing,
        )

    def no_labels(self, logits: Tensor) -> Tensor:
        return torch.full((len(logits),), NO_LABEL, device=logits.device)

    def table_scores(self, logits: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        # One by one: a peer's scores must be the same whichever others are scored with it.
        confidence = torch.cat([self.scores("confidence", [one], None) for one in logits])
        chosen = torch.stack([one.argmax(1) for one in logits])
        return {
            "margin": torch.cat([self.scores("margin", [one], labels) for one in logits]),
            "confidence": confidence,
            "prediction": chosen.masked_fill(~confidence.isfinite(), -1).int(),
        }

    def quality(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        return torch.stack([(peer.argmax(1) == labels).sum() for peer in outputs])

    def evaluation_facts(self, outputs: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        stacked = torch.stack([peer.float() for peer in outputs])
        log_probs = stacked.log_softmax(-1)
        truth = labels.clamp_min(0).expand(len(outputs), -1).unsqueeze(-1)
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

    def evaluator(self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None) -> Evaluator:
        start = start if isinstance(start, ClassificationEvaluator) else None
        return ClassificationEvaluator(peer_names, num_classes, start)
