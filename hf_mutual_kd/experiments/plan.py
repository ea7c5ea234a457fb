"""What is about to be trained, and for how long, said before it begins."""

from __future__ import annotations

import time
from collections.abc import Sized

from ..config.training_config import MutualKDConfig
from ..data.labelled_rows import rows_of_epoch
from ..data.splits import Splits
from ..distillation.objective import Objective
from ..training.pre_flight import start_table
from ..training.trainer import MutualKDTrainer

TRAINING_FACTOR = 3
"""A step of training costs about three passes that only measure: forward, and twice that backward."""


def plan_text(arms: int, seeds: int, seconds: float | None = None) -> str:
    """
    One line on what is to come.

    Args:
        arms (`int`): trainings of one seed.
        seeds (`int`): how often they are repeated.
        seconds (`float`, *optional*): how long one training is expected to take.

    Example:
        >>> plan_text(2, 3, 48.0)
        'Plan: 2 arms × 3 seeds = 6 runs, about 5 minutes.'
    """
    runs = arms * seeds
    counted = f"{arms} arm{'s' * (arms > 1)} × {seeds} seed{'s' * (seeds > 1)} = {runs} run{'s' * (runs > 1)}"
    return f"Plan: {counted}{'' if seconds is None else f', about {duration(runs * seconds)}'}."


def staged_plan_text(seeds: int) -> str:
    """
    One line on what is to come in stages, of which the adapted peers decide how many there are.

    Args:
        seeds (`int`): how often they are repeated.

    Example:
        >>> staged_plan_text(3).partition(":")[0]
        'Plan for each of 3 seeds'
    """
    each = f"for each of {seeds} seeds" if seeds > 1 else "in stages"
    return (
        f"Plan {each}: new heads adapt; ways to teach are tried for a quarter of the steps, the best goes on to its "
        "end; the control and self-training; then what is best for each peer is kept. --estimate true says how long."
    )


def duration(seconds: float) -> str:
    """A rough time in words: seconds to the ten, minutes, then hours to the half.

    Example:
        >>> duration(34), duration(290), duration(9000)
        ('30 seconds', '5 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{round(seconds / 1800) / 2:g} hours"


def seconds_of_run(trainer: MutualKDTrainer, objective: Objective, splits: Splits) -> float | None:
    """
    Show the pre-flight report, and say by its time how long one training is expected to take.

    Args:
        trainer ([`MutualKDTrainer`]): of such a training.
        objective ([`Objective`]): what the peers are about to be trained for.
        splits ([`Splits`]): the rows.

    Returns:
        `float`: seconds; `None` for streams, and for peers on several processes.
    """
    began, config, task = time.perf_counter(), trainer.args, trainer.task
    start = trainer.measure_start()
    measured = time.perf_counter() - began
    if trainer.is_world_process_zero():
        print(start_table(start, objective, task.words))
    train, validation, test = splits.train, splits.validation, splits.test
    if trainer.mesh.is_split or not all(isinstance(rows, Sized) and len(rows) for rows in (train, validation, test)):
        return None
    steps, evaluations = steps_of(config, splits), evaluations_of(config, splits)
    at_once = config.train_batch_size * config.gradient_accumulation_steps
    rows = TRAINING_FACTOR * steps * at_once + evaluations * len(validation) + 2 * len(test)
    return measured / len(validation) * rows


def steps_of(config: MutualKDConfig, splits: Splits) -> float:
    """Optimizer steps of a whole training; of rows that can be counted."""
    return float(config.max_steps if config.max_steps > 0 else _per_epoch(config, splits) * config.num_train_epochs)


def evaluations_of(config: MutualKDConfig, splits: Splits) -> float:
    """How often a whole training measures the validation rows."""
    steps = steps_of(config, splits)
    strategy = str(getattr(config.eval_strategy, "value", config.eval_strategy))
    return {"no": 0.0, "epoch": steps / _per_epoch(config, splits)}.get(strategy, steps / (config.eval_steps or steps))


def _per_epoch(config: MutualKDConfig, splits: Splits) -> int:
    at_once = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    return max(1, -(-rows_of_epoch(splits.train, config.labelled_share, at_once) // at_once))
