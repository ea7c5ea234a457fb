"""What can be known before training: how good the peers are alone and together, and who would teach."""

from __future__ import annotations

from collections.abc import Mapping

from .tables import percent, render
from .teachers import Objective

Results = Mapping[str, Mapping[str, float]]


def describe_start(results: Results, objective: Objective) -> str:
    """The pre-flight report: a table of the peers as they start, and one plain sentence on what to expect.

    Args:
        results (`dict`): what [`MutualKDTrainer.measure_start`] returned.
        objective ([`~hf_mutual_kd.teachers.Objective`]): what the peers are about to be trained for.
    """
    peers = {name: values for name, values in results.items() if name != "cohort"}
    if "ensemble_accuracy" not in results["cohort"]:
        agreements = ", ".join(f"{name} {percent(values['agreement'])} %" for name, values in peers.items())
        return f"Without labels no accuracy can be measured. Agreement with the mean of the peers: {agreements}."
    rows = [
        (name, percent(values["accuracy"]), f"{values['loss']:.3f}", percent(values["expected_share"]))
        for name, values in peers.items()
    ]
    cohort = results["cohort"]
    rows.append(("ensemble (mean)", percent(cohort["ensemble_accuracy"]), "", ""))
    rows.append(("oracle (any is right)", percent(cohort["oracle_accuracy"]), "", ""))
    title = f"Before training, on {int(cohort['samples']):,} validation samples"
    table = render(("peer", "accuracy %", "loss", "best on %"), rows, title)
    return f"{table}\n{expectation(results, objective)}"


def expectation(results: Results, objective: Objective) -> str:
    """One sentence: what ensemble minus best peer says of the gain to expect."""
    peers = {name: values["accuracy"] for name, values in results.items() if name != "cohort"}
    if len(peers) == 1:
        kind = (
            "fine-tuning held to its own start (--retain false: plain)"
            if objective.needs_starts
            else "plain fine-tuning"
        )
        return f"One peer has nobody to learn from: this is {kind}."
    if objective.weight == 0:
        return "Control: the transfer weight is 0, every peer learns from labels alone."
    best = max(peers, key=lambda name: peers[name])
    margin = results["cohort"]["ensemble_accuracy"] - peers[best]
    if margin <= 0:
        return (
            f"The ensemble is not above the best peer ({percent(margin, sign=True)} points to {best}): "
            f"expect nothing from transfer; one-way from {best} instead (--frozen_peers {best})?"
        )
    return (
        f"The ensemble is {percent(margin, sign=True)} points above the best peer ({best}): the peers complement it."
    )
