"""Several classes of each sample: the sigmoid of every logit is an answer of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...config.options import RecipeOptions, TransferOptions
from ...config.task_options import SeveralLabelsOptions
from ...data.collator import RoleTaggingCollator
from ...data.images import UNREADABLE
from ...data.label_sets import check_sets, class_set, set_vector
from ...distillation.label_alignment import LACKING, ClassColumns
from ...distillation.multi_label import MultiLabelUnits, multi_label_loss, yes_or_no
from ...distillation.roles import assign_roles
from ...errors import ConfigError, LabelError, PeerError
from ...reports.making_section import making_section
from ...reports.results_section import results_section, training_section
from ...reports.teaching_section import teaching_section
from ..base import Evaluator
from ..exporting import TaskExport
from ..zero_shot import ZeroShot
from .export import SetPredictions
from .multi_label_evaluator import MultiLabelEvaluator
from .task import Classification


class SetCollator(RoleTaggingCollator):
    """Rows whose `label` is a list of classes; batches have `labels` `[B, C]` of 0 and 1, -1 for a row without."""

    def label(self, row: Mapping[str, Any]) -> list[int]:
        where, classes = f"sample {row['sample_id']}", len(self.label_names)
        said = row.get("label")
        return set_vector(
            None if said is None else class_set(said, self.label_names, classes=classes, row=where), classes
        )

    def blank(self) -> tuple[Any, Any]:
        return self.inputs.blank(), [UNREADABLE] * len(self.label_names)


class MultiLabel(MultiLabelUnits, Classification):
    """What a task of one class for each sample becomes where a sample has several; comes before it among the bases.

    Outputs are logits `[B, C]`; peers teach each other by their two answers for each class, [`yes_or_no`].
    """

    problem_type = "multi_label_classification"
    default_score = "loss"
    target = "classes"
    options_class: ClassVar[type[RecipeOptions]] = SeveralLabelsOptions
    options: SeveralLabelsOptions
    keeps_scores = False
    collator_class = SetCollator
    report_sections = (results_section, training_section, teaching_section, making_section)
    exporter: ClassVar[type[TaskExport] | None] = SetPredictions
    settles = True
    thresholds: Mapping[str, Sequence[float]] = {}
    """Of each peer and class, once they were fitted, see [`Task.settle`]."""

    def __init__(self, options: RecipeOptions | None = None, **own: Any):
        Classification.__init__(self, options, **own)
        MultiLabelUnits.__init__(self, self.options.granularity)

    def check_transfer(self, options: TransferOptions) -> None:
        refused = {
            "teacher_rule 'class' weighs peers by the one class of a sample, and here it has several; give best and "
            "granularity class": options.teacher_rule == "class",
            "a score_table holds one class of each sample, and here a sample has several": bool(options.score_table),
        }
        for message, applies in refused.items():
            if applies:
                raise ConfigError(message)

    def check_labels(self, rows: Any, name: str, classes: int) -> None:
        check_sets(rows, name, classes)

    def check_columns(self, name: str, columns: Sequence[int]) -> None:
        if LACKING in columns:
            raise LabelError(
                f"peer {name!r} lacks class {columns.index(LACKING)} of the data set; where rows have several classes "
                "label_alignment 'overlap' is not for them: use 'subset' or 'new_head'"
            )

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        super().check_peer(name, model, processor)
        if isinstance(model, ZeroShot) and not hasattr(model, "logit_bias"):
            raise PeerError(
                f"peer {name!r} is a {type(model).__name__}, whose answers only compare the classes with each other; "
                "several labels need one that says yes or no to each, as SigLIP, or --peers.NAME.zero_shot false"
            )
        if getattr(model, "config", None) is not None:
            model.config.problem_type = self.problem_type  # type: ignore[union-attr]

    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        logits = self.outputs(model, inputs, columns)
        return logits, multi_label_loss(logits, labels, label_smoothing)

    def logits(self, outputs: Tensor) -> Tensor:
        return yes_or_no(outputs)

    def no_labels(self, logits: Tensor) -> Tensor:
        return torch.full((len(logits), logits.shape[2]), -1, device=logits.device)

    def probabilities(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [one.float().sigmoid() for one in outputs]

    def quality(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        known = self.labelled(labels)
        return torch.stack([((peer > 0) == (labels > 0)).float().mean(1)[known].sum() for peer in outputs])

    def evaluation_facts(self, outputs: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        probs = torch.stack([one.float().sigmoid() for one in outputs])
        loss = torch.stack([multi_label_loss(one, labels) for one in outputs])
        said = [yes_or_no(one) for one in outputs]
        return {
            "sample_ids": sample_ids,
            "labels": labels,
            "probs": probs.transpose(0, 1).contiguous(),
            "ensemble": probs.nanmean(0),
            "loss": loss.T.contiguous(),
            "teacher": assign_roles(MultiLabelUnits().scores("loss", said, labels)),
        }

    def evaluator(
        self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None
    ) -> MultiLabelEvaluator:
        start = start if isinstance(start, MultiLabelEvaluator) else None
        made = MultiLabelEvaluator(peer_names, num_classes, start)
        made.thresholds = self.thresholds
        return made

    def settle(self, measured: Evaluator, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.thresholds = measured.settled() if isinstance(measured, MultiLabelEvaluator) else {}
        return {
            name: {"thresholds": {label: round(value, 4) for label, value in zip(labels, found, strict=True)}}
            for name, found in self.thresholds.items()
        }
