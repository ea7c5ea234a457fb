"""What the arms of a run found, joined over seeds: `results.json` and the closing table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .task_words import TaskWords
from .terminal import percent, render

T_95 = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
"""Two-sided 95 % quantiles of Student's t by the number of seeds; 2.26 for ten or more."""

Metrics = dict[str, dict[str, float]]


@dataclass
class Arm:
    """One training of one arm with one seed, measured on the test split.

    Args:
        name (`str`): `"mutual"` or `"control"`.
        seed (`int`): of order, augmentation and dropout.
        steps (`int`): optimizer steps done.
        seconds (`float`): of training, evaluations included.
        start, end (`dict`): metrics per peer, and of the cohort, before and after.
        start_by_class, end_by_class (`dict`): the task's metric per peer and class.
        share_taught (`dict`): share of decisions in which a peer taught.
        best_steps (`dict`): the step each peer's weights are from, where evaluations chose it.
        validation (`dict`): `start` on the validation split, where that was measured.
        rule (`dict`): what the rule was fitted to before training and learned in it, per peer.
    """

    name: str
    seed: int
    steps: int
    seconds: float
    start: Metrics
    end: Metrics
    start_by_class: dict[str, list[float | None]] = field(default_factory=dict)
    end_by_class: dict[str, list[float | None]] = field(default_factory=dict)
    share_taught: dict[str, float] = field(default_factory=dict)
    best_steps: dict[str, int] = field(default_factory=dict)
    validation: Metrics = field(default_factory=dict)
    rule: dict[str, dict[str, Any]] = field(default_factory=dict)


def collect(arms: Sequence[Arm], facts: Mapping[str, Any], words: TaskWords) -> dict[str, Any]:
    """Join the arms of all seeds: means over seeds, and the paired difference to the control with its sd.

    Args:
        arms (`list[Arm]`): finished trainings.
        facts (`dict`): goes into the result as it is.
        words ([`TaskWords`]): say which metric decides.
    """
    mutual = [arm for arm in arms if arm.name == "mutual"]
    control = {arm.seed: arm for arm in arms if arm.name == "control"}
    names = [name for name in mutual[0].start if name != "cohort"]
    return {
        "peers": {name: peer_results(name, mutual, control, words.metric) for name in names},
        "cohort": {"start": means([arm.start["cohort"] for arm in mutual])},
        "steps": mutual[0].steps,
        **({"rule": mutual[0].rule} if mutual[0].rule else {}),
        "seconds": {"mutual": [arm.seconds for arm in mutual], "control": [arm.seconds for arm in control.values()]},
        **facts,
    }


def peer_results(name: str, mutual: Sequence[Arm], control: Mapping[int, Arm], metric: str) -> dict[str, Any]:
    """One peer's part of `results.json`; differences are those of `metric`."""
    end = means([arm.end[name] for arm in mutual])
    result: dict[str, Any] = {
        "start": without_flips(means([arm.start[name] for arm in mutual])),
        "mutual": without_flips(end),
        "positive_flips": end.get("positive_flips"),
        "negative_flips": end.get("negative_flips"),
        "share_taught": statistics.fmean(arm.share_taught.get(name, 0.0) for arm in mutual),
        "by_class": {
            "start": mean_by_class([arm.start_by_class.get(name, []) for arm in mutual]),
            "mutual": mean_by_class([arm.end_by_class.get(name, []) for arm in mutual]),
        },
        "per_seed": {"mutual": [arm.end[name][metric] for arm in mutual if metric in arm.end[name]]},
    }
    if control:
        pairs = [(arm.end[name], control[arm.seed].end[name]) for arm in mutual]
        gains = [after[metric] - plain[metric] for after, plain in pairs]
        plain = means([pair[1] for pair in pairs])
        result["control"] = without_flips(plain)
        result["control_flips"] = {key: plain.get(key) for key in ("positive_flips", "negative_flips")}
        result["per_seed"]["control"] = [pair[1][metric] for pair in pairs]
        result["by_class"]["control"] = mean_by_class([control[arm.seed].end_by_class.get(name, []) for arm in mutual])
        result["delta"] = {"mean": statistics.fmean(gains), "sd": statistics.stdev(gains) if len(gains) > 1 else None}
    return result


def means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each key."""
    return {key: statistics.fmean(value[key] for value in values) for key in values[0]}


def mean_by_class(values: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean per class over seeds; all of them saw the same test rows."""
    return [None if column[0] is None else statistics.fmean(column) for column in zip(*values, strict=True)]


def without_flips(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those that compare with the start."""
    return {key: value for key, value in values.items() if not key.endswith("_flips")}


def verdict(delta: Mapping[str, float | None], seeds: int) -> str:
    """Whether a difference to the control is more than noise: the 95 % interval of a paired t-test over seeds."""
    mean, sd = delta["mean"], delta["sd"]
    if sd is None or seeds < 3:
        return f"{seeds} seed{'s' if seeds > 1 else ''}"
    noise = T_95.get(seeds, 2.26) * sd / math.sqrt(seeds)
    if abs(mean or 0.0) <= noise:
        return "within noise"
    return "better" if (mean or 0.0) > 0 else "worse"


def difference(delta: Mapping[str, float | None], seeds: int, words: TaskWords) -> str:
    """`+0.79 ± 0.04 (better)`: in points for a share, else in the metric's own unit."""
    sd = delta["sd"]
    spread = "" if sd is None else f" ± {words.text(sd, sign=True).lstrip('+')}"
    return f"{words.text(delta['mean'] or 0.0, sign=True)}{spread} ({verdict(delta, seeds)})"


def reached(metrics: Mapping[str, float] | None, words: TaskWords) -> str:
    """`87.3`; a dash where there was no such arm or there were no labels."""
    return words.text(metrics[words.metric]) if metrics and words.metric in metrics else "–"


def flips(peer: Mapping[str, Any]) -> str:
    """`+3.1 −0.4`, in points; a dash where no sample was measured at the start, or the task has none."""
    gained, lost = peer["positive_flips"], peer["negative_flips"]
    return "–" if gained is None or lost is None else f"+{percent(gained)} −{percent(lost)}"


COLUMNS = ("peer", "start", "control", "mutual", "Δ against control", "share taught", "flips + −")


def table_rows(results: Mapping[str, Any], words: TaskWords) -> list[tuple[str, ...]]:
    """A row per peer, in the order of `COLUMNS`; shares in percent on the test split, their Δ in points."""
    seeds = len(results["seeds"])
    rows: list[tuple[str, ...]] = []
    for name, peer in results["peers"].items():
        delta = peer.get("delta")
        rows.append(
            (
                name,
                *(reached(peer.get(arm), words) for arm in ("start", "control", "mutual")),
                difference(delta, seeds, words) if delta else "–",
                percent(peer["share_taught"]),
                flips(peer),
            )
        )
    return rows


def table(results: Mapping[str, Any], words: TaskWords) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and the rows of [`table_rows`], without columns in which no row has a value."""
    rows = table_rows(results, words)
    kept = [index for index in range(len(COLUMNS)) if any(row[index] != "–" for row in rows)]
    return tuple(COLUMNS[index] for index in kept), [tuple(row[index] for index in kept) for row in rows]


def markdown(results: Mapping[str, Any], words: TaskWords) -> str:
    """The closing table for a README."""
    columns, found = table(results, words)
    rows = [columns, ("---", *["--:"] * (len(columns) - 1)), *found]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def results_table(results: Mapping[str, Any], folder: Path, words: TaskWords) -> str:
    """The closing table, where the models lie and what to type next."""
    seeds = len(results["seeds"])
    measured = f"{words.metric} in %" if words.share else words.metric
    title = f"On the test split: {measured}, {seeds} seed{'s' if seeds > 1 else ''}, {results['steps']} steps"
    lines = [render(*table(results, words), title)]
    if note := (results.get("dataset") or {}).get("note"):
        lines.append(f"Data: {note}")
    lines.append(
        "Peers pretrained on the same data, or fine-tuned with plenty of labels, gain nothing over the control: "
        "see 'What to expect' in the README."
    )
    lines.append("Improved models: " + "  ".join(str(folder / name) for name in results["peers"]))
    lines.append(f"Next: hf-mutual-kd push {folder} --namespace YOU --dry_run")
    return "\n".join(lines)
