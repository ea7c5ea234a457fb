"""What can be known before training: how good the peers are alone and together, and who would teach."""

from __future__ import annotations

from collections.abc import Mapping

from ..distillation.objective import Objective
from ..reports.task_words import TaskWords
from ..reports.terminal import percent, render

Results = Mapping[str, Mapping[str, float]]


REFERENCES = {"ensemble": "ensemble (mean)", "oracle": "oracle (any is right)", "centre_prior": "centre prior"}
"""What the cohort's own numbers `KIND_METRIC` are called in the report."""


def start_table(results: Results, objective: Objective, words: TaskWords, *, keeps_best: bool = False) -> str:
    """The pre-flight report: a table of the peers as they start, and one plain sentence on what to expect.

    Args:
        results (`dict`): what [`MutualKDTrainer.measure_start`] returned.
        objective ([`Objective`]): what the peers are about to be trained for.
        words ([`TaskWords`]): of their task.
        keeps_best (`bool`, *optional*, defaults to `False`): of each peer is kept what validation favours.
    """
    peers, cohort = {name: values for name, values in results.items() if name != "cohort"}, results["cohort"]
    if f"ensemble_{words.metric}" not in cohort:
        sentence = f"Without labels no {words.metric} can be measured."
        agreements = [f"{name} {percent(peer['agreement'])} %" for name, peer in peers.items() if "agreement" in peer]
        return f"{sentence} Agreement with the mean of the peers: {', '.join(agreements)}." if agreements else sentence
    together = cohort[f"ensemble_{words.metric}"]
    rows = [
        (
            name,
            words.text(values[words.metric]),
            f"{values['loss']:.3f}",
            percent(values["expected_share"]),
            words.text(together - values[words.metric], sign=True),
        )
        for name, values in peers.items()
    ]
    rows += [(name, value, "", "", "") for name, value in references(cohort, words)]
    title = f"Before training, on {int(cohort['samples']):,} validation samples"
    table = render(("peer", words.column, "loss", "best on %", "ensemble −"), rows, title=title)
    return f"{table}\n{expectation(results, objective, words, keeps_best=keeps_best)}"


def references(cohort: Mapping[str, float], words: TaskWords) -> list[tuple[str, str]]:
    """The cohort's own numbers with their names: in the deciding metric, and an oracle also in another."""
    rows = []
    for kind, name in REFERENCES.items():
        for metric, title in words.shown.items():
            if f"{kind}_{metric}" in cohort and (metric == words.metric or kind == "oracle"):
                shown = name if metric == words.metric else f"{name}, {title}"
                rows.append((shown, words.text_of(metric, cohort[f"{kind}_{metric}"])))
    return rows


def expectation(results: Results, objective: Objective, words: TaskWords, *, keeps_best: bool = False) -> str:
    """What ensemble minus each peer says of the gain to expect: it went with the gain in the suites' pairs."""
    peers = {name: values[words.metric] for name, values in results.items() if name != "cohort"}
    if objective.weight > 0 and not objective.source.in_memory:
        return "All peers of the score table teach, also those that are not trained here."
    if len(peers) == 1:
        kind = (
            "fine-tuning held to its own start (--retain false: plain)"
            if objective.needs_starts
            else "plain fine-tuning"
        )
        return f"One peer has nobody to learn from: this is {kind}."
    if objective.weight == 0:
        return "Control: the transfer weight is 0, every peer learns from labels alone."
    together = results["cohort"][f"ensemble_{words.metric}"]
    below = [name for name, value in peers.items() if value < together]
    best = max(peers, key=lambda name: peers[name])
    margin = together - peers[best]
    if margin <= 0:
        others = ", ".join(below) or "nobody"
        remedy = (
            "what validation favours of each is kept."
            if keeps_best
            else f"let it teach all others (--teacher_rule fixed:{best}), or keep of each peer what validation "
            "favours (--teaching auto)?"
        )
        return (
            f"The ensemble is not above the best peer ({words.text(margin, sign=True)} {words.points} to {best}): "
            f"{others} may gain from it, {best} may lose; {remedy}"
        )
    return (
        f"The ensemble is {words.text(margin, sign=True)} {words.points} above the best peer ({best}): "
        f"{', '.join(sorted(below, key=lambda name: peers[name]))} may gain, the first of them most."
    )
