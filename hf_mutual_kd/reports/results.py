"""What the arms of a run found, joined over seeds: `results.json`."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json, write_json
from .intervals import STATISTICS, difference_interval
from .samples import UNIT, Samples
from .task_words import TaskWords

RESULTS = "results.json"
MUTUAL, CONTROL, START = "mutual", "control", "start"
"""The arm that a run is for, the one that every gain is measured against, and how peers began."""
ENSEMBLE = "ensemble_"
"""Begins the cohort's metrics that are of the mean of all peers."""

Number = int | float
Metrics = dict[str, dict[str, Number]]
Taught = dict[str, dict[str, int]]
"""Decisions by who taught (a peer, `"<mean>"`, `"<all>"` or `"nobody"`), of rows that are `"labelled"` and
`"unlabelled"`, or of `"all"` where no row has one class."""


@dataclass
class Arm:
    """One training of one arm with one seed, measured on the test split.

    Args:
        name (`str`): `"mutual"`, `"control"` or what else was trained.
        seed (`int`): of order, augmentation and dropout.
        steps (`int`): optimizer steps done.
        seconds (`float`): of training, evaluations included.
        start, end (`dict`): metrics per peer, and of the cohort, before and after.
        start_by_class, end_by_class (`dict`): the task's metric per peer and class.
        teachers (`dict`): see [`Taught`].
        best_steps (`dict`): the step each peer's weights are from, where evaluations chose it.
        validation (`dict`): `start` on the validation split, where that was measured.
        rule (`dict`): what the rule was fitted to before training and learned in it, per peer.
    """

    name: str
    seed: int
    steps: int
    seconds: Number
    start: Metrics
    end: Metrics
    start_by_class: dict[str, list[Number | None]] = field(default_factory=dict)
    end_by_class: dict[str, list[Number | None]] = field(default_factory=dict)
    teachers: Taught = field(default_factory=dict)
    best_steps: dict[str, int] = field(default_factory=dict)
    validation: Metrics = field(default_factory=dict)
    rule: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class ArmResult:
    """One peer in one arm: means over seeds.

    Args:
        metrics (`dict[str, float]`): by name.
        per_seed (`list[float]`): the deciding metric of each seed; empty for the start, which is one for all.
        by_class (`list[float | None]`): the task's metric of each class.
        positive_flips, negative_flips (`float`, *optional*): shares of the samples, against the peer's own start.
    """

    metrics: dict[str, Number]
    per_seed: list[Number] = field(default_factory=list)
    by_class: list[Number | None] = field(default_factory=list)
    positive_flips: Number | None = None
    negative_flips: Number | None = None


@dataclass
class Difference:
    """How far the mutual arm is above another.

    Args:
        mean (`float`): over seeds.
        sd (`float`, *optional*): over seeds; of one seed none.
        low, high (`float`, *optional*): the 95 % interval over test rows and seeds ([`difference_interval`]), where
            the arms kept what it is made of.
    """

    mean: Number
    sd: Number | None = None
    low: Number | None = None
    high: Number | None = None


@dataclass
class PeerResult:
    """A peer, or the mean of all of them.

    Args:
        arms (`dict[str, ArmResult]`): `"start"`, what else was trained in its order, and `"mutual"` last.
        differences (`dict[str, dict[str, Difference]]`): `"mutual"` minus each of the other arms, by arm and metric.
    """

    arms: dict[str, ArmResult]
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)

    def value(self, arm: str, metric: str) -> Number | None:
        """A metric of an arm, `None` where there is no such arm or metric."""
        return self.arms[arm].metrics.get(metric) if arm in self.arms else None

    def delta(self, against: str, metric: str) -> Difference | None:
        """The mutual arm's difference of a metric to another arm."""
        return self.differences.get(against, {}).get(metric)


@dataclass
class Results:
    """`results.json`.

    Args:
        peers (`dict[str, PeerResult]`): by name.
        seeds (`list[int]`): of the arms.
        steps (`int`): of the first mutual arm.
        task (`str`): its name.
        ensemble ([`PeerResult`], *optional*): of the mean of all peers.
        teachers (`dict`): who taught in the mutual arms of all seeds, see [`Taught`].
        units (`int`, *optional*): how many rows, images or videos the intervals are over.
        cohort (`dict[str, float]`): what the peers reached together before training, and what they are compared with.
        seconds (`dict[str, list[float]]`): of each training, by arm.
        rule (`dict`): [`Arm`]'s, of the first seed.
        kept (`dict[str, list[dict]]`): of a run in stages, for each peer and seed: `what`, `alpha`, `way`, and the
            validation numbers that the choice rests on. The arm `"mutual"` then has the metrics of what is kept, and
            `"taught"` those of what the peers taught.
        validation (`list[dict]`): of each seed, every arm's metric on the rows that selected, by peer and `ensemble`.
        labelled_share (`float`, *optional*): of labelled rows in the steps.
        metrics (`list[str]`): that were asked for beside the task's own.
        dataset, versions, command, measured_on, usage, example, examples, co2_kg: see [`run_facts`].
    """

    peers: dict[str, PeerResult]
    seeds: list[int]
    steps: int
    task: str = "image-classification"
    ensemble: PeerResult | None = None
    teachers: Taught = field(default_factory=dict)
    units: int | None = None
    cohort: dict[str, Number] = field(default_factory=dict)
    seconds: dict[str, list[Number]] = field(default_factory=dict)
    rule: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    validation: list[dict[str, dict[str, Number]]] = field(default_factory=list)
    labelled_share: Number | None = None
    metrics: list[str] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    measured_on: str = "test"
    usage: dict[str, str] = field(default_factory=dict)
    example: dict[str, str | int] = field(default_factory=dict)
    examples: dict[str, list[int | str]] = field(default_factory=dict)
    co2_kg: float | None = None

    @property
    def reference(self) -> str:
        """What gains are shown against: the control where one was trained, else the start."""
        return CONTROL if any(CONTROL in peer.arms for peer in self.peers.values()) else START

    @property
    def arms(self) -> list[str]:
        """Names of all arms in their order."""
        return list(dict.fromkeys(arm for peer in self.peers.values() for arm in peer.arms))

    def write(self, folder: Path) -> None:
        """Write `results.json` into the run's folder."""
        write_json(folder / RESULTS, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Results | None:
        """Of a run's folder, `None` where there is none.

        Raises:
            [`OutputFolderError`]: it is damaged.
        """
        path = folder / RESULTS
        return read_json(path, cls) if path.exists() else None


def collect(
    arms: Sequence[Arm],
    facts: Mapping[str, Any],
    words: TaskWords,
    samples: Mapping[str, Sequence[Samples | None]] | None = None,
) -> Results:
    """Join the arms of all seeds.

    Args:
        arms (`list[Arm]`): finished trainings.
        facts (`dict`): fields of [`Results`] that are known beside them.
        words ([`TaskWords`]): say which metric decides.
        samples (`dict[str, list[Samples | None]]`, *optional*):
            What each arm kept of the test split, in the order of its seeds, for the intervals.
    """
    by_name: dict[str, list[Arm]] = {}
    for arm in [*(one for one in arms if one.name != MUTUAL), *(one for one in arms if one.name == MUTUAL)]:
        by_name.setdefault(arm.name, []).append(arm)
    mutual, first = by_name[MUTUAL], by_name[MUTUAL][0]
    names = [name for name in first.start if name != "cohort"]
    results = Results(
        peers={name: _joined(by_name, name, words.metric) for name in names},
        **{"seeds": [arm.seed for arm in mutual], **facts},
        steps=first.steps,
        ensemble=_ensemble(by_name, words.metric),
        teachers=_added([arm.teachers for arm in mutual]),
        cohort=means([arm.start["cohort"] for arm in mutual]),
        seconds={name: [arm.seconds for arm in each] for name, each in by_name.items()},
        rule=first.rule,
    )
    _add_intervals(results, names, {} if samples is None else samples)
    return results


def _joined(by_name: Mapping[str, Sequence[Arm]], name: str, metric: str) -> PeerResult:
    """One peer's arms and the mutual one's differences to the others."""
    mutual = by_name[MUTUAL]
    start = ArmResult(_plain(means([arm.start[name] for arm in mutual])))
    start.by_class = mean_by_class([arm.start_by_class.get(name, []) for arm in mutual])
    arms = {START: start}
    for arm, each in by_name.items():
        found = means([one.end[name] for one in each])
        arms[arm] = ArmResult(
            _plain(found),
            [one.end[name][metric] for one in each if metric in one.end[name]],
            mean_by_class([one.end_by_class.get(name, []) for one in each]),
            found.get("positive_flips"),
            found.get("negative_flips"),
        )
    return PeerResult(arms, _differences(by_name, name))


def _ensemble(by_name: Mapping[str, Sequence[Arm]], metric: str) -> PeerResult | None:
    """The mean of all peers as one more of them; `None` for one peer, and where it was not measured."""

    def with_ensemble(found: Metrics) -> Metrics:
        together = {key[len(ENSEMBLE) :]: value for key, value in found["cohort"].items() if key.startswith(ENSEMBLE)}
        return {ENSEMBLE: together}

    ends = {
        name: [
            Arm(one.name, one.seed, one.steps, one.seconds, with_ensemble(one.start), with_ensemble(one.end))
            for one in each
        ]
        for name, each in by_name.items()
    }
    found = _joined(ends, ENSEMBLE, metric)
    several = len(by_name[MUTUAL][0].start) > 2
    return found if several and all(metric in arm.metrics for arm in found.arms.values()) else None


def _differences(by_name: Mapping[str, Sequence[Arm]], name: str) -> dict[str, dict[str, Difference]]:
    """The mutual arm minus the start and every other arm, seed by seed."""
    mutual = {arm.seed: arm for arm in by_name[MUTUAL]}
    pairs = {START: [(arm.end[name], arm.start[name]) for arm in mutual.values()]}
    for arm, each in by_name.items():
        if arm != MUTUAL:
            pairs[arm] = [(mutual[one.seed].end[name], one.end[name]) for one in each if one.seed in mutual]
    return {arm: _by_metric(found) for arm, found in pairs.items() if found}


def _by_metric(pairs: Sequence[tuple[Mapping[str, Number], Mapping[str, Number]]]) -> dict[str, Difference]:
    known = [key for key in _plain(pairs[0][0]) if all(key in after and key in before for after, before in pairs)]
    found = {}
    for key in known:
        gains = [after[key] - before[key] for after, before in pairs]
        found[key] = Difference(statistics.fmean(gains), statistics.stdev(gains) if len(gains) > 1 else None)
    return found


def _add_intervals(results: Results, names: Sequence[str], samples: Mapping[str, Sequence[Samples | None]]) -> None:
    """Give the differences their intervals, where all arms and seeds kept what these need."""
    kept = {arm: [part for part in parts if part is not None] for arm, parts in samples.items()}
    complete = {arm: parts for arm, parts in kept.items() if parts and len(parts) == len(samples[arm])}
    if MUTUAL not in complete or not all(_has_units(part) for parts in complete.values() for part in parts):
        return
    after = complete[MUTUAL]
    if not after[0].facts["outcomes"]["metrics"]:
        return
    for arm in (START, *(one for one in complete if one != MUTUAL)):
        other = after if arm == START else complete[arm]
        if len(other) != len(after):
            continue
        phase = START if arm == START else "after"
        mean, low, high, results.units = _interval(after, other, phase)
        for place, result in enumerate([*(results.peers[name] for name in names), results.ensemble]):
            for index, metric in enumerate(after[0].facts["outcomes"]["metrics"]):
                found = result.delta(arm, metric) if result is not None else None
                if found is not None and np.isfinite(mean[place, index]):
                    found.low, found.high = float(low[place, index]), float(high[place, index])


def _has_units(part: Samples) -> bool:
    return "outcomes" in part.facts and all(f"{UNIT}sums" in phase for phase in (part.start, part.after))


def _interval(
    after: Sequence[Samples], before: Sequence[Samples], phase: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Mean, ends `[N + 1, M]` and how many units all of them met."""
    arms = [[part.after for part in after], [part.phase(phase) for part in before]]
    units = functools.reduce(np.intersect1d, [found[f"{UNIT}id"] for parts in arms for found in parts])
    first, second = (
        [found[f"{UNIT}sums"][np.searchsorted(found[f"{UNIT}id"], units)] for found in parts] for parts in arms
    )
    return *difference_interval(first, second, STATISTICS[after[0].facts["outcomes"]["statistic"]]), len(units)


def _added(taught: Sequence[Taught]) -> Taught:
    """Decisions over all seeds."""
    found: Taught = {}
    for part in taught:
        for rows, counts in part.items():
            for who, count in counts.items():
                found.setdefault(rows, {})[who] = found.get(rows, {}).get(who, 0) + count
    return found


def means(values: Sequence[Mapping[str, Number]]) -> dict[str, Number]:
    """The mean of each key."""
    return {key: statistics.fmean(value[key] for value in values) for key in values[0]}


def mean_by_class(values: Sequence[Sequence[Number | None]]) -> list[Number | None]:
    """The mean per class over seeds; all of them saw the same test rows."""
    found: list[Number | None] = []
    for column in zip(*values, strict=True):
        known = [value for value in column if value is not None]
        found.append(statistics.fmean(known) if known else None)
    return found


def _plain(values: Mapping[str, Number]) -> dict[str, Number]:
    """Metrics without those that compare with the start."""
    return {key: value for key, value in values.items() if not key.endswith("_flips")}
