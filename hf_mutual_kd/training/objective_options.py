"""The objective of a configuration on a task and a data set, refused where they do not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config.training_config import MutualKDConfig
from ..data.labelled_rows import which_labelled
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
    labelled = which_labelled(train_dataset)
    unlabelled = objective.needs_starts if labelled is None else not labelled.all()
    return replace(objective, unlabelled_rows=objective.unlabelled_rows or unlabelled)
