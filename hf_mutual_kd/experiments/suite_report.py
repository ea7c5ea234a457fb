"""What a suite found: one table of its settings against their controls, as text, Markdown, CSV and a figure."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..files import write_bytes, write_text
from ..reports.closing_table import verdict
from ..reports.figures import LIGHT, png
from ..reports.results import Arm, Difference
from ..reports.task_words import TaskWords
from ..reports.terminal import percent, render
from ..tasks.registry import make_task
from .suite import PlannedArm, Suite

TABLE = ("comparison.md", "comparison.csv", "peers.csv", "comparison.png")
COLUMNS = (
    "setting",
    "against",
    "Δ",
    "worst peer",
    "above control",
    "above start",
    "flips + −",
    "seconds",
    "× control",
    "peak MB",
)


@dataclass(frozen=True)
class FinishedArm:
    """An arm that was trained, what it found, and the bytes it took at most."""

    plan: PlannedArm
    found: Arm
    peak_memory: int | None


@dataclass(frozen=True)
class PeerRow:
    """One peer in one arm, against its control, or against its start where there is no control.

    Args:
        setting, pair, seed, peer: which.
        start, end, control (`float`): the deciding metric; `control` is the start where there is none.
        flips (`tuple[float, float]`, *optional*): shares of samples that went right and wrong.
        ensemble_gain (`float`, *optional*): ensemble minus best peer before training, on the validation split.
    """

    setting: str
    pair: tuple[str, ...]
    seed: int
    peer: str
    start: float
    end: float
    control: float
    flips: tuple[float, float] | None
    ensemble_gain: float | None

    @property
    def delta(self) -> float:
        """What transfer added."""
        return self.end - self.control


@dataclass(frozen=True)
class SettingResult:
    """One line of the comparison.

    Args:
        setting (`str`): its name.
        against (`str`): `"control"` or `"start"`.
        delta ([`Difference`]): mean over peers, pairs and seeds, and sd over seeds of the mean over peers and pairs.
        peers (`dict[str, float]`): the mean difference over seeds of every peer in every pair.
        above_control, above_start (`tuple[int, int]`): how many of these are above 0, and of how many.
        flips (`tuple[float, float]`, *optional*): means.
        seconds (`float`): mean of an arm.
        slower (`float`, *optional*): against its control.
        peak_memory (`float`, *optional*): mean of an arm, in MB of 10⁶ bytes.
    """

    setting: str
    against: str
    delta: Difference
    peers: dict[str, float]
    above_control: tuple[int, int]
    above_start: tuple[int, int]
    flips: tuple[float, float] | None
    seconds: float
    slower: float | None
    peak_memory: float | None


def write_comparison(suite: Suite, arms: Sequence[FinishedArm]) -> str:
    """Write Markdown, both CSVs and the figure into the suite's folder; returns the table for the terminal."""
    words = make_task(suite.task).words
    results, rows = compare(suite, arms)
    lines = [_cells(result, len(suite.seeds), words) for result in results]
    title = _title(suite, words, rows)
    write_text(suite.folder / "comparison.md", _markdown(suite, title, lines))
    write_text(suite.folder / "comparison.csv", _csv(_plain(result) for result in results))
    write_text(suite.folder / "peers.csv", _csv(_plain_row(row) for row in rows))
    write_bytes(suite.folder / "comparison.png", comparison_figure(results, words))
    where = "  ".join(str(suite.folder / name) for name in TABLE)
    return f"{render(COLUMNS, lines, title=title)}\n{NOTE}\nWritten: {where}"


def compare(suite: Suite, arms: Sequence[FinishedArm]) -> tuple[list[SettingResult], list[PeerRow]]:
    """Every setting of a suite against its controls, and what that is made of."""
    metric = make_task(suite.task).words.metric
    by_name = {arm.plan.name: arm for arm in arms}
    results, rows = [], []
    for setting in suite.settings:
        own = [arm for arm in arms if arm.plan.setting == setting]
        found = [row for arm in own for row in peer_rows(arm, by_name.get(arm.plan.control or ""), metric)]
        results.append(_setting(setting, own, found, by_name))
        rows += found
    return results, rows


def peer_rows(arm: FinishedArm, control: FinishedArm | None, metric: str) -> list[PeerRow]:
    """The peers of an arm that learned something, each with its control's value."""
    frozen = [name for name, spec in arm.plan.recipe.options.peers.items() if spec.frozen]
    before = arm.found.validation
    best = max(
        (values[metric] for name, values in before.items() if name != "cohort" and metric in values), default=0.0
    )
    together = before.get("cohort", {}).get(f"ensemble_{metric}")
    rows = []
    for name, end in arm.found.end.items():
        if name == "cohort" or name in frozen:
            continue
        start = arm.found.start[name][metric]
        flips = (end["positive_flips"], end["negative_flips"]) if "positive_flips" in end else None
        rows.append(
            PeerRow(
                arm.plan.setting,
                arm.plan.pair,
                arm.plan.seed,
                name,
                start,
                end[metric],
                start if control is None else control.found.end[name][metric],
                flips,
                None if together is None else together - best,
            )
        )
    return rows


def _setting(
    setting: str, arms: Sequence[FinishedArm], rows: Sequence[PeerRow], by_name: Mapping[str, FinishedArm]
) -> SettingResult:
    by_seed = [statistics.fmean(values) for values in _grouped(rows, lambda row: row.seed, _delta).values()]
    flips = [row.flips for row in rows if row.flips is not None]
    deltas = {key: statistics.fmean(values) for key, values in _grouped(rows, _who, _delta).items()}
    gains = [statistics.fmean(values) for values in _grouped(rows, _who, lambda row: row.end - row.start).values()]
    controls = [by_name[arm.plan.control].found.seconds for arm in arms if arm.plan.control]
    memory = [arm.peak_memory for arm in arms if arm.peak_memory is not None]
    seconds = statistics.fmean(arm.found.seconds for arm in arms)
    return SettingResult(
        setting=setting,
        against="control" if controls else "start",
        delta=Difference(statistics.fmean(by_seed), statistics.stdev(by_seed) if len(by_seed) > 1 else None),
        peers=deltas,
        above_control=(sum(value > 0 for value in deltas.values()), len(deltas)),
        above_start=(sum(value > 0 for value in gains), len(gains)),
        flips=(statistics.fmean(one[0] for one in flips), statistics.fmean(one[1] for one in flips))
        if flips
        else None,
        seconds=seconds,
        slower=seconds / statistics.fmean(controls) if controls and statistics.fmean(controls) > 0 else None,
        peak_memory=statistics.fmean(memory) / 1e6 if memory else None,
    )


def _delta(row: PeerRow) -> float:
    return row.delta


def _who(row: PeerRow) -> str:
    """A peer, and the pair it was in: `"vit of vit+cnn"`."""
    return f"{row.peer} of {'+'.join(row.pair)}" if row.pair else row.peer


def _grouped(
    rows: Sequence[PeerRow], key: Callable[[PeerRow], Any], value: Callable[[PeerRow], float]
) -> dict[Any, list[float]]:
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(value(row))
    return groups


NOTE = (
    "Δ: mean over peers and pairs, ± standard deviation over seeds of that mean, each arm against the control with "
    "its seed, data order and steps. above …: peers (in their pairs) whose mean over seeds is above it."
)


def _title(suite: Suite, words: TaskWords, rows: Sequence[PeerRow]) -> str:
    pairs = len({row.pair for row in rows if row.pair})
    seeds = f"{len(suite.seeds)} seed{'s' if len(suite.seeds) > 1 else ''}"
    of_pairs = f", {pairs} pairs" if pairs else ""
    return f"{words.metric} on the test split, differences in {words.points}: {seeds}{of_pairs}"


def _cells(result: SettingResult, seeds: int, words: TaskWords) -> tuple[str, ...]:
    mean, sd = result.delta.mean, result.delta.sd
    spread = "" if sd is None else f" ± {words.text(sd, sign=True).lstrip('+')}"
    worst = min(result.peers, key=lambda name: result.peers[name])
    return (
        result.setting,
        result.against,
        f"{words.text(mean, sign=True)}{spread} ({verdict(result.delta, seeds)})",
        f"{words.text(result.peers[worst], sign=True)} {worst}",
        _share(result.above_control) if result.against == "control" else "–",
        _share(result.above_start),
        f"+{percent(result.flips[0])} −{percent(result.flips[1])}" if result.flips else "–",
        f"{result.seconds:.0f}",
        f"{result.slower:.2f}" if result.slower else "–",
        f"{result.peak_memory:.0f}" if result.peak_memory else "–",
    )


def _share(counted: tuple[int, int]) -> str:
    return f"{counted[0]}/{counted[1]} ({percent(counted[0] / counted[1])} %)"


def _markdown(suite: Suite, title: str, lines: Sequence[tuple[str, ...]]) -> str:
    rows = [COLUMNS, ("---", "---", *["--:"] * (len(COLUMNS) - 2)), *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# {suite.folder.name}\n\n{title}.\n\n{table}\n\n{NOTE}\n\n![Differences per peer](comparison.png)\n"


def _plain(result: SettingResult) -> dict[str, Any]:
    gained, lost = result.flips or (None, None)
    return {
        "setting": result.setting,
        "against": result.against,
        "delta": result.delta.mean,
        "sd": result.delta.sd,
        "worst": min(result.peers.values()),
        "above_control": result.above_control[0] / result.above_control[1] if result.against == "control" else None,
        "above_start": result.above_start[0] / result.above_start[1],
        "peers": len(result.peers),
        "positive_flips": gained,
        "negative_flips": lost,
        "seconds": result.seconds,
        "times_control": result.slower,
        "peak_memory_mb": result.peak_memory,
    }


def _plain_row(row: PeerRow) -> dict[str, Any]:
    gained, lost = row.flips or (None, None)
    return {
        "setting": row.setting,
        "pair": "+".join(row.pair),
        "seed": row.seed,
        "peer": row.peer,
        "start": row.start,
        "end": row.end,
        "control": row.control,
        "delta": row.delta,
        "positive_flips": gained,
        "negative_flips": lost,
        "ensemble_minus_best_on_validation": row.ensemble_gain,
    }


def _csv(rows: Any) -> str:
    """Full precision; an empty cell where nothing was measured."""
    listed = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(listed[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def comparison_figure(results: Sequence[SettingResult], words: TaskWords) -> bytes:
    """A line per setting: every peer's mean difference, and the mean with its spread over seeds."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=LIGHT.soft, linewidth=0.9)
        for place, result in enumerate(results):
            values = [words.scale * value for value in result.peers.values()]
            spread = [place + 0.22 * math.sin(2.4 * index) for index in range(len(values))]
            named = {"label": "a peer, mean over seeds"} if place == 0 else {}
            axes.scatter(values, spread, s=14, color=LIGHT.soft, alpha=0.6, linewidths=0, **named)
            mean, sd = words.scale * result.delta.mean, words.scale * (result.delta.sd or 0.0)
            named = {"label": "mean ± sd over seeds"} if place == 0 else {}
            color = LIGHT.mutual if result.against == "control" else LIGHT.control
            axes.errorbar([mean], [place], xerr=[sd], fmt="o", color=color, capsize=3, markersize=6, **named)
        names = [one.setting + ("" if one.against == "control" else " (against start)") for one in results]
        axes.set_yticks(range(len(results)), names)
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel(f"{words.metric} against the control, {words.points}")
        axes.grid(axis="x", color=LIGHT.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=2)

    return png(draw, width=7.6, height=1.1 + 0.42 * len(results))
