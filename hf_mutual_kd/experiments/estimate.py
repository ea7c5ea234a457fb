"""How long a plan will take and how much room it needs, from a few timed steps: `--estimate true`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass

from transformers import TrainerCallback

from ..config.training_config import MutualKDConfig
from ..data.splits import Splits
from ..errors import ConfigError
from ..peers.step_times import wait
from ..reports.terminal import render
from ..tasks.base import Task
from ..training.stages import Stages
from ..training.trainer import MutualKDTrainer
from ..training.ways import TRIED, changed, one_training, way_options
from .arms import Arms
from .peak_memory import forget_peak, peak_memory
from .plan import duration, evaluations_of, steps_of

WARM, TIMED = 2, 5
"""Steps that are not counted, and steps that are."""

OPTIMIZER_COPIES = 2
"""AdamW keeps two numbers for each weight that trains."""

LABELS, TAUGHT = "on labels alone", "with teachers"

MakeTrainer = Callable[[MutualKDConfig], MutualKDTrainer]


@dataclass(frozen=True)
class Training:
    """One training of a plan.

    Args:
        name (`str`): its arm or stage.
        kind (`str`): `"on labels alone"` or `"with teachers"`, which decides what its steps cost.
        share (`float`): of a whole training's steps that it does.
        times (`int`): how often it is done for a seed.
    """

    name: str
    kind: str
    share: float = 1.0
    times: int = 1


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Args:
        step_s (`dict[str, float]`): seconds of a step by kind, medians.
        row_s (`float`): seconds of an evaluated row.
        peak (`int`, *optional*): bytes of memory at most, see [`peak_memory`].
        weights, trained (`int`): bytes of all peers' weights, and of those that train.
    """

    step_s: dict[str, float]
    row_s: float
    peak: int | None
    weights: int
    trained: int


class Stopwatch(TrainerCallback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, list[float]()

    def on_step_begin(self, args, state, control, **kwargs):
        wait()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        wait()
        self.seconds.append(time.perf_counter() - self.began)


def estimated(make: MakeTrainer, config: MutualKDConfig, splits: Splits, arms: Arms) -> str:
    """
    How long a run will take and how much room it needs, in lines for the main process; nothing of it is kept.

    Args:
        make (`Callable`): makes a trainer of a configuration.
        config ([`MutualKDConfig`]): of the run.
        splits ([`Splits`]): its rows.
        arms ([`Arms`]): its trainings, where it has no stages.

    Raises:
        [`ConfigError`]: the rows are a stream, or peers live on several processes.
    """
    if config.peer_parallel:
        raise ConfigError("estimate times processes that hold all peers; leave out estimate or peer_parallel")
    if not all(isinstance(rows, Sized) for rows in (splits.train, splits.validation, splits.test)):
        raise ConfigError("estimate counts rows, and a stream has no known number of them; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(changed(config, output_dir=folder, push_to_hub=False))
        stages = Stages(trainer) if config.teaching else None
        trainings = trainings_of(config, arms.names, stages)
        timed = {kind: _timed(config, trainer.task, kind, folder) for kind in {one.kind: None for one in trainings}}
        share = config.labelled_share if stages is None else stages.labelled_share
        del trainer, stages
        costs = measure(make, timed, splits)
        said = table(changed(config, labelled_share=share), trainings, costs, splits, len(arms.seeds))
    return f"{said}\n" if config.process_index == 0 else ""


def trainings_of(config: MutualKDConfig, arms: Sequence[str], stages: Stages | None) -> list[Training]:
    """What is trained for one seed.

    Args:
        config ([`MutualKDConfig`]): of the run.
        arms (`list[str]`): of a run without stages.
        stages ([`Stages`], *optional*): of a run with them.

    Example:
        `[Training("control", "on labels alone"), Training("mutual", "with teachers")]`
    """
    if stages is None:
        silent = config.transfer_weight == 0
        return [Training(name, LABELS if name == "control" or silent else TAUGHT) for name in arms]
    ways = stages.ways
    tried = len(ways) > 1
    plan = [Training("adapt", LABELS)] if stages.adapts else []
    plan += [Training("ways that are tried", TAUGHT, 1 / TRIED, len(ways))] if tried else []
    plan += [Training("the best way", TAUGHT, 1 - tried / TRIED)] if ways else []
    plan.append(Training("control", LABELS, times=len(stages.controls)))
    return [*plan, Training("self-training", TAUGHT)] if stages.trains_itself else plan


def _timed(config: MutualKDConfig, task: Task, kind: str, folder: str) -> MutualKDConfig:
    """A few steps of one kind: of stages with teachers the way that every task has."""
    if kind == LABELS:
        config = one_training(config, task, transfer_weight=0.0)
    elif config.teaching:
        config = way_options(config, task, "mean")
    return changed(
        config,
        output_dir=folder,
        max_steps=WARM + TIMED,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        push_to_hub=False,
        report_to=[],
        resume_from_checkpoint=None,
    )


def measure(make: MakeTrainer, timed: Mapping[str, MutualKDConfig], splits: Splits) -> Costs:
    """
    Time the steps of each kind and an evaluation.

    Args:
        make (`Callable`): makes a trainer of a configuration.
        timed (`dict[str, MutualKDConfig]`): one or more, by kind.
        splits ([`Splits`]): the rows.
    """
    step_s = {}
    forget_peak()
    for kind, config in timed.items():
        trainer = make(config)
        watch = Stopwatch()
        trainer.add_callback(watch)
        trainer.train()
        step_s[kind] = statistics.median(watch.seconds[WARM:])
    rows = splits.validation.select(range(min(len(splits.validation), 4 * trainer.args.eval_batch_size)))
    trainer.evaluate(rows)
    began = time.perf_counter()
    trainer.evaluate(rows)
    row_s = (time.perf_counter() - began) / len(rows)
    sizes = [(weight.nbytes, weight.requires_grad) for weight in trainer.cohort.parameters()]
    weights, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    return Costs(step_s, row_s, peak_memory(), weights, trained)


def table(config: MutualKDConfig, trainings: Sequence[Training], costs: Costs, splits: Splits, seeds: int) -> str:
    """The estimate in words and figures, with the formula and what goes into it."""
    steps, evaluations = steps_of(config, splits), evaluations_of(config, splits)
    rows, total = [], 0.0
    for one in trainings:
        stepping = one.times * one.share * steps * costs.step_s[one.kind]
        measuring = costs.row_s * one.times * (one.share * evaluations * len(splits.validation) + len(splits.test))
        total += stepping + measuring
        name = one.name if one.times == 1 else f"{one.name} ({one.times})"
        rows.append(
            (
                name,
                f"{one.times * one.share * steps:,.0f}",
                f"{1000 * costs.step_s[one.kind]:,.0f}",
                duration(stepping),
                duration(measuring),
            )
        )
    checkpoint = costs.weights + OPTIMIZER_COPIES * costs.trained
    kept = config.save_total_limit or max(1, round(evaluations))
    disk = seeds * len(trainings) * (kept * checkpoint + 2 * costs.weights)
    devices = config.world_size
    memory = "not known" if costs.peak is None else f"{costs.peak / 2**30:.2f} GiB at most"
    head = ("training", "steps", "ms a step", "steps take", "evaluations take")
    return "\n".join(
        [
            render(head, rows, title="Estimate for one seed"),
            f"time = Σ steps × s/step + evaluated rows × s/row ({1000 * costs.row_s:.2f} ms); ×  {seeds} "
            f"seed{'s' * (seeds > 1)}: about {duration(seeds * total)} on {devices} "
            f"device{'s' * (devices > 1)}, {seeds * total * devices / 3600:.2f} device-hours.",
            f"memory: {memory} on a device while these steps ran.",
            f"disk: at most {disk / 2**30:.2f} GiB = {seeds} × {len(trainings)} trainings × ({kept} checkpoint"
            f"{'s' * (kept > 1)} of {checkpoint / 2**20:.0f} MiB + best and last weights of "
            f"{costs.weights / 2**20:.0f} MiB each).",
            f"Timed: {TIMED} steps of each kind after {WARM}; nothing was trained to an end, nothing was written.",
        ]
    )
