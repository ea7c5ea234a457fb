"""The objective of a configuration on a task and a data set, refused where they do not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from ..config.training_config import MutualKDConfig
from ..distillation.objective import Objective
from ..errors import ConfigError
from ..tasks.base import Task


def objective_for(args: MutualKDConfig, train_dataset: Any, peers: int, task: Task) -> Objective:
    """The objective of a configuration on a data set, which may hold rows without a label."""
    score = args.role_score or task.default_score
    objective = Objective.from_options(args, label_smoothing=args.label_smoothing_factor, score=score)
    rule = objective.rule
    alone = peers == 1 and rule.one_teaches and objective.source.in_memory
    if alone or not (rule.one_teaches or args.role_table):
        # Nobody has a peer to teach, or no peer teaches by itself: there is nothing to retain.
        objective = replace(objective, retain=False)
    if objective.weight > 0 and (rule.learns or rule.fits() or rule.knows_classes) and not task.has_classes:
        raise ConfigError(f"teacher_rule {rule.name!r} and calibrate need classes, which {task.name} has none of")
    unlabelled = has_unlabelled_rows(train_dataset)
    if unlabelled is None:
        unlabelled = objective.needs_starts
    return replace(objective, unlabelled_rows=objective.unlabelled_rows or unlabelled)


def has_unlabelled_rows(dataset: Any) -> bool | None:
    """Whether a data set holds rows without a label; `None` where one cannot know without reading it all."""
    if not isinstance(dataset, datasets.Dataset):
        return False if getattr(dataset, "all_labelled", False) else None
    if "label" not in dataset.column_names:
        return True
    labels = dataset.select_columns(["label"]).with_format("arrow")
    for batch in labels.iter(batch_size=1000):
        column = batch["label"]
        if column.null_count or (pa.types.is_integer(column.type) and pc.any(pc.less(column, 0)).as_py()):
            return True
    return False
