"""Ways of teaching that a training in stages tries, and the configuration of each stage."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from ..config.training_config import MutualKDConfig
from ..errors import ConfigError
from ..tasks.base import Task

WAYS: dict[str, dict[str, Any]] = {
    "gated": {"teacher_rule": "gated", "teacher_source": "frozen", "calibrate": True},
    "mean": {"teacher_rule": "mean", "teacher_source": "frozen"},
    "class": {"teacher_rule": "class", "teacher_source": "frozen", "calibrate": True},
    "best": {"teacher_rule": "best", "teacher_source": "live", "retain": True},
}
"""Ways of teaching that are tried, by the name of their rule; of equals the first is taken. Each is what one training
by it alone sets: `MutualKDConfig(..., **WAYS["mean"])`."""

TABLE_WAYS: dict[str, dict[str, Any]] = {
    "mean": {"teacher_rule": "mean", "teacher_source": "table"},
    "best": {"teacher_rule": "best", "teacher_source": "table", "retain": True},
}
"""In their place where teachers speak from a score table."""

TRIED = 4
"""A way is tried for one in so many steps."""


class StopAt(TrainerCallback):
    """Ends a training after its first quarter, with a checkpoint from which it can go on."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == steps_tried(state.max_steps):
            control.should_save = control.should_training_stop = True


def steps_tried(steps: int) -> int:
    """For how many of all steps a way is tried."""
    return max(1, steps // TRIED)


def ways_of(task: Task, args: MutualKDConfig) -> dict[str, dict[str, Any]]:
    """The ways that a task can be taught by, and what each of them sets."""
    ways = WAYS if args.score_table is None else TABLE_WAYS
    return {way: options for way, options in ways.items() if task.has_classes or way in ("mean", "best")}


def way_options(args: MutualKDConfig, task: Task, way: str, fits: bool = True) -> MutualKDConfig:
    """The configuration of one way of teaching, on its own; without rows to fit on nothing is calibrated."""
    options = one_training(args, task, **ways_of(task, args)[way], score_table=args.score_table)
    return options if fits else changed(options, calibrate=False)


def one_training(args: MutualKDConfig, task: Task, **changes: Any) -> MutualKDConfig:
    """A configuration of one training, without what only stages have."""
    weight = task.teaching_weight if args.transfer_weight is None else args.transfer_weight
    unset: dict[str, Any] = {
        "teaching": None,
        "adapt": None,
        "self_training": True,
        "keep": "best",
        "control_learning_rates": [],
        "transfer_weight": weight,
        "pre_flight": False,
        "push_to_hub": False,
        "merge_adapters": False,
        "score_table": None,
    }
    return changed(args, **(unset | changes))


def changed(args: MutualKDConfig, **changes: Any) -> MutualKDConfig:
    """A copy with other options; a new configuration would end the processes' connections that others still use."""
    copied = copy.copy(args)
    for name, value in changes.items():
        setattr(copied, name, value)
    return copied.resolved()


def first_way(args: MutualKDConfig, task: Task) -> MutualKDConfig:
    """What describes a training before a way is chosen: with stages that by the mean of the peers."""
    return way_options(args, task, "mean") if args.teaching else args


def check_staged(args: MutualKDConfig, eval_dataset: Any, objective: Any, optimizers: Sequence[Any]) -> None:
    """
    Refuse what a training in stages makes for itself.

    Raises:
        [`ConfigError`]: it was given, or there is nothing to choose by.
    """
    if not args.teaching:
        return
    if objective is not None or any(one is not None for one in optimizers):
        raise ConfigError("teaching 'auto' makes an objective and an optimizer for each stage; leave yours out")
    if eval_dataset is None:
        raise ConfigError("teaching 'auto' chooses by validation rows; give eval_dataset")
