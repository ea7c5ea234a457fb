"""The facts of a peer's model card, from the records of its run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .adapter_folder import ADAPTER_CONFIG, adapted
from .card_metadata import license_of, non_commercial
from .closing_table import PARTS, TOGETHER, interval_note, spread, verdict
from .kept import kept_lines
from .reader_folder import Reads, reads_of
from .results import CONTROL, MUTUAL, START, Difference, PeerResult
from .run_facts import MACHINE_OPTIONS
from .run_record import HUB, RunRecord, hub_id
from .task_words import TaskWords
from .text import ABSOLUTE, Markdown, code, last_part, link, number, one_line, scrub_command, scrub_value
from .text import spread as seed_spread

TIMM_SNIPPET = """import timm

model = timm.create_model({model}, pretrained=True)"""


@dataclass
class CardData:
    """The facts of one card; the template has the words. What is empty leaves its sentence or section out, and text
    that is not [`Markdown`] is from outside and escaped where it is shown."""

    # Who it is: links to what it started from, to the other peers and to the data set.
    name: str
    words: TaskWords
    architecture: str
    parameters: int | None
    base: Markdown | None
    adapter: Mapping[str, Any]
    reads: Reads | None
    others: list[Markdown]
    dataset: Markdown | None
    control_only: bool
    frozen: bool

    # How good it is, on the test split.
    arms: list[str]
    rows: list[dict[str, Any]]
    measured: dict[str, Any]
    verdict: str | None
    delta: Difference | None
    note: str
    kept: list[str]
    fell_below_start: bool
    flips: Mapping[str, Mapping[str, float]]
    classes: dict[str, list[dict[str, Any]]]

    # Who taught it: shares of decisions over all seeds, of rows with a label and without.
    teachers: list[dict[str, Any]]
    taught: list[str]

    # How to use it, and what the snippet printed; which rows the figure of examples shows.
    usage: dict[str, Any]
    examples: list[int | str]
    onnx: dict[str, Any]

    # How it was made.
    data: Mapping[str, Any]
    limits: str
    objective: Mapping[str, Any]
    rule: list[str]
    hyperparameters: dict[str, dict[str, str]]
    hardware: Mapping[str, Any]
    seconds: Mapping[str, list[float]]
    selected_step: int | None
    co2_kg: float | None
    command: str
    command_is_cut: bool
    versions: Mapping[str, str]

    # Whose it is.
    license: str | None
    non_commercial: list[tuple[str, str]]
    base_citation: str | None

    figures: Mapping[str, str]
    """Paths inside the peer's folder, by `"teachers"`, `"training"` and `"examples"`."""


def build_card(run: RunRecord, name: str, figures: Mapping[str, str]) -> CardData:
    """The facts of one peer's card."""
    peer, results = run.peers[name], run.results
    result = run.peer_results.get(name) or PeerResult({})
    delta = result.delta(CONTROL, run.words.metric)
    start, after = (result.value(arm, run.words.metric) for arm in (START, MUTUAL))
    return CardData(
        name=name,
        words=run.words,
        architecture=peer.get("architecture") or "",
        parameters=peer.get("parameters"),
        base=source_link(peer),
        adapter=(peer.get("adapter") or {}) if (run.folder / name / ADAPTER_CONFIG).is_file() else {},
        reads=reads_of(run.folder / name),
        others=[link(other, run.address(other)) for other in run.peers if other != name],
        dataset=dataset_link(run.dataset),
        control_only=run.is_control,
        frozen=run.peers[name].get("frozen", False),
        arms=list(result.arms),
        rows=[*rows, *ensemble_row(run)] if (rows := result_rows(run, result)) else [],
        measured={
            "seeds": run.seeds,
            "steps": results.steps if results else None,
            "samples": run.measured_samples,
            "centre_prior": with_unit(run.words, run.cohort_start.get(f"centre_prior_{run.words.metric}")),
            "kept": with_unit(run.words, run.selected_value(name)),
        },
        verdict=verdict(delta, len(run.seeds)) if delta else None,
        delta=delta,
        note=interval_note(results, run.words) if results and delta else "",
        kept=kept_lines(results, name, run.words),
        fell_below_start=start is not None and after is not None and after < start,
        flips=flip_rows(result),
        classes=class_rows(run, result),
        teachers=teacher_rows(run, name),
        taught=[] if run.is_control or not results else [part for part in PARTS if results.teachers.get(part)],
        usage=usage(run, name),
        onnx=run.onnx_facts(name),
        examples=(run.fact("examples") or {}).get("rows") or [],
        data=data_facts(run.dataset),
        limits=peer.get("limits") or "",
        objective=run.record.get("objective") or {},
        rule=run.rule_facts,
        hyperparameters=hyperparameters(run),
        hardware=run.fact("hardware") or {},
        seconds={arm: values for arm, values in (results.seconds if results else {}).items() if any(values)},
        selected_step=run.selected_step(name),
        co2_kg=run.fact("co2_kg"),
        command=scrub_command(str(run.fact("command") or "")),
        command_is_cut=bool(ABSOLUTE.search(str(run.fact("command") or ""))),
        versions=run.fact("versions") or {},
        license=license_of(peer),
        non_commercial=non_commercial(run, name),
        base_citation=(peer.get("base") or {}).get("citation"),
        figures=figures,
    )


def with_unit(words: TaskWords, value: float | None) -> str | None:
    """The deciding metric with its name, `"86.92 % accuracy"` or `"a CC of 0.512"`."""
    if value is None:
        return None
    shown = number(value, words.share)
    return f"{shown} % {words.metric}" if words.share else f"a {words.metric} of {shown}"


def source_link(peer: Mapping[str, Any]) -> Markdown | None:
    """A peer's starting point at its revision; of a folder only the name."""
    source, revision = peer.get("source"), peer.get("revision")
    if not source:
        return None
    if found := hub_id(source, revision):
        return link(found, f"{HUB}/{found}/tree/{revision}")
    return Markdown(f"a local model ({code(last_part(str(source)))})")


def dataset_link(facts: Mapping[str, Any]) -> Markdown | None:
    """The data set at its revision."""
    if not facts.get("name"):
        return None
    found = hub_id(facts["name"], facts.get("revision"))
    url = f"{HUB}/datasets/{found}/tree/{facts['revision']}" if found else None
    return link(found or last_part(str(facts["name"])), url)


def result_rows(run: RunRecord, result: PeerResult) -> list[dict[str, Any]]:
    """A table of all arms, in the units that the task shows."""
    rows = []
    for key, title in run.words.shown.items():
        if key.startswith("top5") and len(run.labels) <= 5:
            continue
        if row := _result_row(run, result, key):
            rows.append({"metric": title, **row})
    return rows


def ensemble_row(run: RunRecord) -> list[dict[str, Any]]:
    """What the mean of all peers reaches, as rows of that table."""
    together = run.results.ensemble if run.results else None
    metrics = [run.words.metric, *run.results.metrics] if run.results and together else []
    found = {metric: _result_row(run, together, metric) for metric in metrics if together}
    return [
        {"metric": f"{run.words.shown[metric]}, of the mean of all peers", **row}
        for metric, row in found.items()
        if row
    ]


def _result_row(run: RunRecord, result: PeerResult, key: str) -> dict[str, Any] | None:
    """A metric in every arm and its difference to the control; `None` where an arm lacks it."""
    values = {arm: result.value(arm, key) for arm in result.arms}
    known = {arm: value for arm, value in values.items() if value is not None and math.isfinite(value)}
    if not known or len(known) < len(values):
        return None
    share, decides = run.words.is_share(key), key == run.words.metric
    row: dict[str, Any] = {
        "values": [
            number(value, share) + (seed_spread(result.arms[arm].per_seed, share) if decides else "")
            for arm, value in known.items()
        ]
    }
    if delta := result.delta(CONTROL, key):
        # Only our own numbers, so that brackets need no escape.
        gain = number(delta.mean, share, sign=True) + spread(delta, run.words, key).replace("-", "−")
        row["difference"] = Markdown(gain)
    return row


def flip_rows(result: PeerResult) -> dict[str, dict[str, float]]:
    """Positive and negative flips of each arm that has them."""
    shown = {MUTUAL: "this model", **{arm: arm for arm in result.arms if arm not in (START, MUTUAL)}}
    return {
        words: {"positive_flips": found.positive_flips, "negative_flips": found.negative_flips}
        for arm, words in shown.items()
        if (found := result.arms.get(arm)) and found.positive_flips is not None and found.negative_flips is not None
    }


def class_rows(run: RunRecord, result: PeerResult, most: int = 5) -> dict[str, list[dict[str, Any]]]:
    """The classes with the largest gains and losses against the control, or the start where there is no control."""
    by_class = {arm: found.by_class for arm, found in result.arms.items() if found.by_class}
    after, base = by_class.get(MUTUAL), by_class.get(CONTROL) or by_class.get(START)
    if not (after and base):
        return {}
    changes: list[dict[str, Any]] = []
    for index, label in enumerate(run.labels[: len(after)]):
        values = {arm: column[index] for arm, column in by_class.items()}
        now, before = after[index], base[index]
        if None in values.values() or now is None or before is None or abs(now - before) < 0.00005:
            continue
        changes.append({"label": label, "change": now - before, **values})
    better = sorted((row for row in changes if row["change"] > 0), key=lambda row: -row["change"])
    worse = sorted((row for row in changes if row["change"] < 0), key=lambda row: row["change"])
    return {title: rows[:most] for title, rows in (("better", better), ("worse", worse)) if rows}


def teacher_rows(run: RunRecord, name: str) -> list[dict[str, Any]]:
    """Who taught, on which share of the decisions on which rows, from which start and under which licence."""
    results, counts = run.results, run.teachers
    if results is None or not counts or len(run.peers) == 1:
        return []

    def shares(who: str) -> dict[str, Any]:
        parts = {part: found.get(who, 0) / max(1, sum(found.values())) for part, found in results.teachers.items()}
        return {"share": counts.get(who, 0) / sum(counts.values()), "shares": parts}

    rows: list[dict[str, Any]] = [
        {
            "who": other,
            "own": other == name,
            "link": link(other, run.address(other)),
            "source": source_link(peer),
            "licence": license_of(peer),
            **shares(other),
        }
        for other, peer in run.peers.items()
    ]
    return rows + [{"who": words, **shares(who)} for who, words in TOGETHER.items() if counts.get(who)]


def usage(run: RunRecord, name: str) -> dict[str, Any]:
    """The snippet, for timm peers also theirs, and what it printed when it was run."""
    folder, repository = run.folder / name, run.repositories.get(name)
    if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
        return {}
    model = json.dumps(repository or name)
    code = run.words.snippet_of(run.model_type(name))
    snippet = adapted(code, folder, run.words, place=repository or name, on_hub=repository is not None)
    if not snippet:
        return {}
    found = {"snippet": snippet.format(model=model, example=json.dumps(run.words.example))}
    if run.is_timm(name) and name in run.repositories:
        found["timm"] = TIMM_SNIPPET.format(model=json.dumps(f"hf-hub:{run.repositories[name]}"))
    output = _one_line_each(str((run.fact("usage") or {}).get(name) or ""), run.labels)
    return found | ({"output": output, "example": run.fact("example") or {}} if output else {})


def _one_line_each(printed: str, labels: Sequence[str]) -> str:
    """What a snippet printed, with every label on one line: one may hold line breaks."""
    for label in labels:
        if len(label.splitlines()) > 1:
            printed = printed.replace(label, one_line(label))
    return printed


def data_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the data set: its revision, and a row for each split."""
    rows, labelled, skipped = (facts.get(key) or {} for key in ("rows", "labelled", "skipped_images"))
    splits = [
        {"role": role, "origin": origin, "rows": rows.get(role), "labelled": labelled.get(role)}
        for role, origin in (facts.get("splits") or {}).items()
    ]
    unreadable = sum(count if isinstance(count, int) else len(count or ()) for count in skipped.values())
    kept = {key: facts[key] for key in ("config", "revision", "fingerprint", "note") if facts.get(key)}
    return kept | {"splits": splits, "unreadable": unreadable} if splits or kept else {}


def hyperparameters(run: RunRecord) -> dict[str, dict[str, str]]:
    """Options and their values as text: those that this run changed, and the others."""
    recorded = run.record.get("hyperparameters") or {"changed": run.recipe}
    return {
        part: {
            option: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for option, value in scrub_value(values).items()
            if value is not None and not MACHINE_OPTIONS.fullmatch(option)
        }
        for part, values in recorded.items()
        if values
    }
