"""The closing table of a run, what its numbers say in sentences, and what to type next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .kept import columns_of, delta_of, kept_sentence, reference_words
from .results import MUTUAL, START, ArmResult, Difference, PeerResult, Results
from .task_words import TaskWords
from .terminal import percent, program, render

T_95 = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
"""Two-sided 95 % quantiles of Student's t by the number of seeds; 2.26 for ten or more."""

TOGETHER = {"<mean>": "mean of all", "<all>": "all others", "nobody": "nobody"}
"""Who teaches beside single peers; the mean of all peers is also the ensemble."""
PARTS = {"labelled": "taught labelled, %", "unlabelled": "taught unlabelled, %", "all": "taught, %"}
NONE = "–"


def verdict(delta: Difference, seeds: int) -> str:
    """Whether a difference is more than noise: by its interval over rows and seeds, or where single rows were not
    kept by the interval of a paired t-test over three seeds or more."""
    if delta.low is not None and delta.high is not None:
        return "better" if delta.low > 0 else "worse" if delta.high < 0 else "within noise"
    if delta.sd is None or seeds < 3:
        return f"{seeds} seed{'s' if seeds > 1 else ''}"
    noise = T_95.get(seeds, 2.26) * delta.sd / math.sqrt(seeds)
    if abs(delta.mean) <= noise:
        return "within noise"
    return "better" if delta.mean > 0 else "worse"


def difference(delta: Difference, seeds: int, words: TaskWords) -> str:
    """`+0.79 [0.20, 1.38] (better)`, or `+0.79 ± 0.04 (better)`: in points for a share, else in the metric's unit."""
    return f"{words.text(delta.mean, sign=True)}{spread(delta, words)} ({verdict(delta, seeds)})"


def spread(delta: Difference, words: TaskWords, metric: str | None = None) -> str:
    """` [0.20, 1.38]`, the 95 % interval; where there is none ` ± 0.04`, the spread over seeds, or nothing."""
    metric = metric or words.metric
    if delta.low is not None and delta.high is not None:
        low, high = (words.text_of(metric, end, sign=True) for end in (delta.low, delta.high))
        return f" [{low}, {high}]"
    return "" if delta.sd is None else f" ± {words.text_of(metric, delta.sd, sign=True).lstrip('+')}"


def interval_note(results: Results, words: TaskWords) -> str:
    """What stands behind a difference, in a sentence; empty where none is shown."""
    seeds = len(results.seeds)
    known = [delta_of(results, peer, words) for peer in results.peers.values()]
    shown = [delta for delta in known if delta is not None]
    if not shown:
        return ""
    if any(delta.low is not None for delta in shown):
        over = f"In brackets: 95 % interval over {results.units:,} test {words.counted}"
        if seeds > 1:
            return f"{over} and {seeds} seeds, by a hierarchical bootstrap of the paired outcomes."
        return f"{over}, by a bootstrap of the paired outcomes; one seed says nothing of how trainings differ."
    if seeds > 1:
        return f"±: spread (standard deviation) over {seeds} seeds on one test set."
    return "One seed, and no single outcomes were kept: nothing is known of the noise."


def reached(result: PeerResult, arm: str, words: TaskWords) -> str:
    """`87.3`; a dash where there was no such arm or there were no labels."""
    value = result.value(arm, words.metric)
    return NONE if value is None else words.text(value)


def flips(arm: ArmResult) -> str:
    """`+3.1 −0.4`, in points; a dash where no sample was measured at the start, or the task has none."""
    gained, lost = arm.positive_flips, arm.negative_flips
    return NONE if gained is None or lost is None else f"+{percent(gained)} −{percent(lost)}"


def share_of(results: Results, part: str, who: str) -> str:
    """On which share of the decisions about some rows somebody taught, in percent."""
    counts = results.teachers.get(part, {})
    return percent(counts.get(who, 0) / max(1, sum(counts.values()))) if counts else NONE


def table(results: Results, words: TaskWords) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and a row per peer, and last the mean of all: as one more model, and as a teacher of its own.

    Shares are in percent on the test split, their Δ in points. A column in which no row has a value is left out.
    """
    seeds = len(results.seeds)
    parts = [part for part in PARTS if results.teachers.get(part)]
    title = f"Δ{' of kept' * bool(results.kept)} against {reference_words(results)}"
    columns = ("peer", *columns_of(results), title, *(PARTS[part] for part in parts), "flips + −")
    rows = []
    for name, peer in results.peers.items():
        delta = delta_of(results, peer, words)
        rows.append(
            (
                name,
                *(reached(peer, arm, words) for arm in results.arms),
                difference(delta, seeds, words) if delta else NONE,
                *(share_of(results, part, name) for part in parts),
                flips(peer.arms[MUTUAL]),
            )
        )
    rows += _together(results, words, parts)
    kept = [index for index in range(len(columns)) if any(row[index] != NONE for row in rows)]
    return tuple(columns[index] for index in kept), [tuple(row[index] for index in kept) for row in rows]


def _together(results: Results, words: TaskWords, parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of all peers together: the ensemble, which is also the teacher `"<mean>"`, and `"<all>"`."""
    rows = []
    for who in ("<mean>", "<all>"):
        taught = [any(results.teachers[part].get(who) for part in parts)]
        ensemble = results.ensemble if who == "<mean>" else None
        if ensemble is None and not any(taught):
            continue
        delta = delta_of(results, ensemble, words) if ensemble else None
        rows.append(
            (
                TOGETHER[who],
                *(reached(ensemble, arm, words) if ensemble else NONE for arm in results.arms),
                difference(delta, len(results.seeds), words) if delta else NONE,
                *(share_of(results, part, who) for part in parts),
                NONE,
            )
        )
    return rows


def markdown(results: Results, words: TaskWords) -> str:
    """The closing table for a README."""
    columns, found = table(results, words)
    rows = [columns, ("---", *["--:"] * (len(columns) - 1)), *found]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def headline(results: Results, words: TaskWords) -> str:
    """What a run found, in one sentence made from its numbers.

    Example: `"All 3 peers beat their control, by 0.67 to 1.55 points"`.
    """
    found = {name: delta_of(results, peer, words) for name, peer in results.peers.items()}
    deltas = {name: delta for name, delta in found.items() if delta is not None}
    groups: dict[str, list[str]] = {}
    for name, delta in deltas.items():
        groups.setdefault(verdict(delta, len(results.seeds)), []).append(name)
    if not deltas:
        return "Nothing could be measured against labels"
    verdicts = [_of_group(word, names, deltas, reference_words(results), words) for word, names in groups.items()]
    text = "; ".join(verdicts)
    return text[0].upper() + text[1:] if text.startswith(("all ", "both ")) else text


def _of_group(
    word: str, names: Sequence[str], deltas: Mapping[str, Difference], reference: str, words: TaskWords
) -> str:
    """Of the peers with one verdict, all that is to be said."""
    single, who = len(names) == 1, _who(names, len(deltas))
    against = f"{'its' if single else 'their'} {reference}"
    sizes = _range([deltas[name].mean for name in names], words, signed=word not in ("better", "worse"))
    if word == "better":
        return f"{who} beat{'s' * single} {against}, by {sizes}"
    if word == "worse":
        return f"{who} fell below {against}, by {sizes}"
    if word == "within noise":
        return f"{who} differ{'s' * single} from {against} by no more than noise ({sizes})"
    return f"{who} {'is' if single else 'are'} {sizes} above {against}, which {word} cannot tell from noise"


def _who(names: Sequence[str], count: int) -> str:
    if 1 < len(names) == count:
        return "both peers" if count == 2 else f"all {({3: 'three', 4: 'four'}).get(count, count)} peers"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _range(values: Sequence[float], words: TaskWords, signed: bool) -> str:
    """`"0.67 to 1.55 points"`."""
    ends = [words.text(value, sign=True) for value in sorted(values if signed else map(abs, values))]
    ends = list(dict.fromkeys(end if signed else end.lstrip("+") for end in (ends[0], ends[-1])))
    return f"{' to '.join(ends)} {words.points}"


def further_metrics(results: Results, words: TaskWords) -> str:
    """The metrics that were asked for beside the task's own: a row per peer and metric, and of the mean of all."""
    everybody = {**results.peers, **({TOGETHER["<mean>"]: results.ensemble} if results.ensemble else {})}
    rows = [
        (
            name,
            metric,
            *(
                NONE if (value := peer.value(arm, metric)) is None else words.text_of(metric, value)
                for arm in results.arms
            ),
        )
        for metric in results.metrics
        for name, peer in everybody.items()
    ]
    return render(("peer", "metric", *columns_of(results)), rows) if rows else ""


def results_table(results: Results, folder: Path, words: TaskWords) -> str:
    """The closing table, what it says, where the models lie and what to type next."""
    seeds = len(results.seeds)
    measured = f"{words.metric} in %" if words.share else words.metric
    title = f"On the test split: {measured}, {seeds} seed{'s' if seeds > 1 else ''}, {results.steps} steps"
    lines = [render(*table(results, words), title=title), interval_note(results, words)]
    lines += [f"Data: {results.dataset['note']}"] if results.dataset.get("note") else []
    lines += [further_metrics(results, words)]
    lines += [kept_sentence(results)] if results.kept else []
    lines += [f"{headline(results, words)}.", _advice(results, words)]
    lines.append("Models: " + "  ".join(str(folder / name) for name in results.peers))
    lines.append(f"Next: {program()} push {folder} --namespace YOU --dry_run")
    return "\n".join(line for line in lines if line)


def _advice(results: Results, words: TaskWords) -> str:
    """What a user may do with this outcome."""
    deltas = [delta_of(results, peer, words) for peer in results.peers.values()]
    verdicts = {verdict(delta, len(results.seeds)) for delta in deltas if delta is not None}
    if results.reference == START:
        return "Without a control nobody knows what plain fine-tuning would have reached."
    best = max(float(peer.value(MUTUAL, words.metric) or -math.inf) for peer in results.peers.values())
    together = results.ensemble.value(MUTUAL, words.metric) if results.ensemble else None
    ensemble = ""
    if together is not None and together > best:
        ensemble = f"The mean of all peers ({words.text(together)}) is above the best of them ({words.text(best)})."
    if "worse" in verdicts and not results.kept:
        return f"Where a peer is worse, keep the control's weights or try another rule. {ensemble}".strip()
    if verdicts and verdicts <= {"within noise"}:
        return f"Plain fine-tuning gives as good models here: see 'What to expect' in the README. {ensemble}".strip()
    return ensemble
