"""What the scout found, in words: the table, the proposed cohort and the command that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config.recipe import to_command
from ...peers.spec import PeerSpec
from ...reports.terminal import percent, render

COLUMNS = (
    "candidate",
    "ens-mine ±",
    "ens-best",
    "gains %",
    "loses %",
    "hardest %",
    "agree %",
    "err corr",
    "accuracy %",
    "oracle %",
    "params",
    "ms/sample",
)

LEGEND = (
    "ens-mine, ens-best: accuracy of the two models' mean minus that of mine, with the half width of its 95 % "
    "interval, and minus that of the better one, points; gains/loses: samples only the candidate, or only mine, has "
    "right; hardest: its accuracy on the quarter that mine finds hardest."
)


def scout_table(report: Mapping[str, Any], command: str | None, folder: Any) -> str:
    """The whole report for the terminal.

    Args:
        report (`dict`): content of `scout.json`.
        command (`str`, *optional*): what trains the proposed cohort.
        folder (`Path`): where the files lie.
    """
    mine, data = report["model"], report["data"]
    lines = [
        f"{mine['source']} has {percent(mine['accuracy'])} % of {data['rows']:,} samples right ({data['name']}); "
        f"{count(mine['parameters'])} parameters, {mine['ms_per_image']:.3g} ms/sample."
    ]
    if report["candidates"]:
        lines += [render(COLUMNS, [_row(name, one) for name, one in report["candidates"].items()]), LEGEND]
    if report["unusable"]:
        reasons = [(source, reason) for source, reason in report["unusable"].items()]
        lines += ["Not used:", *(f"  {source}: {reason}" for source, reason in reasons)]
    lines += [cohort_choice_table(report["cohort"]), *([command] if command else [])]
    return "\n".join([*lines, f"{folder}: scout.json, scout.png, table/ (a score table)"])


def cohort_choice_table(cohort: Mapping[str, Any]) -> str:
    """Whom to train with, how it was chosen and what to expect."""
    left_out = ", ".join(cohort["left_out"])
    because = f" Left out, as the ensemble with them is clearly below mine: {left_out}." if left_out else ""
    if not cohort["partners"]:
        return f"No candidate is worth training with on this evidence.{because}"
    how = "the best of all cohorts" if cohort["exact"] else "chosen greedily, as there are too many cohorts to compare"
    if cohort["budget"] is not None:
        how += f" within {count(cohort['budget'])} parameters"
    lift = cohort["lift"]
    return (
        f"Proposed partners ({how}): {', '.join(cohort['partners'])}. Together they have "
        f"{cohort['covered_errors']} of my {cohort['errors']} errors right. Ensemble minus mine: "
        f"{percent(lift['value'], sign=True)} points ({percent(lift['low'], sign=True)} to "
        f"{percent(lift['high'], sign=True)}): {expectation(lift)}.{advice(cohort)}{because}"
    )


def expectation(lift: Mapping[str, float]) -> str:
    """What the headline number says of the training."""
    if lift["low"] > 0:
        return "mine has something to learn"
    return "within noise of 0, expect little" if lift["high"] >= 0 else "below mine, expect harm"


def advice(cohort: Mapping[str, Any]) -> str:
    """How to train where the best peer would learn from worse ones."""
    if cohort["gain"]["high"] >= 0:
        return ""
    return (
        f" {cohort['best']} alone is above the ensemble and may lose: let it teach all others "
        f"(--teacher_rule fixed:{cohort['best']})."
    )


def recipe_command(report: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> str | None:
    """The command that trains the proposed cohort, `None` where there is none.

    Args:
        report (`dict`): content of `scout.json`.
        task (`str`): what the models do.
        options (`dict`): of the data set and its labels, as the recipe takes them.
    """
    partners = report["cohort"]["partners"]
    if not partners:
        return None
    models = {"mine": report["model"]} | {name: report["candidates"][name] for name in partners}
    peers = [f"{name}={_at_commit(model)}" for name, model in models.items()]
    given = {"peers": peers, **{name: value for name, value in options.items() if value is not None}}
    return to_command(f"hf-mutual-kd train {task}", given | {"output_dir": "runs/with_partners"})


def _at_commit(model: Mapping[str, Any]) -> str:
    source = PeerSpec.parse(model["source"]).source
    return f"{source}@{model['revision']}" if model["revision"] else source


def _row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    lift, flips = one["lift"], one["positive_flips"]
    correlation = one["error_correlation"]
    return (
        name,
        f"{percent(lift['value'], sign=True)} ± {100 * (lift['high'] - lift['value']):.2f}",
        percent(one["gain"]["value"], sign=True),
        f"{percent(flips['value'])} ({percent(flips['low'])}-{percent(flips['high'])})",
        percent(one["negative_flips"]["value"]),
        percent(one["hardest"]),
        percent(one["agreement"]),
        "" if correlation is None else f"{correlation:.2f}",
        percent(one["accuracy"]),
        percent(one["oracle"]),
        count(one["parameters"]),
        f"{one['ms_per_image']:.3g}",
    )


def count(number: int) -> str:
    """`86567656` as `86.6M`."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return str(number)
