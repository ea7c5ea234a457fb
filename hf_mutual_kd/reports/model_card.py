"""The model card of every peer of a run, built from the run's records alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..errors import PeerError
from ..files import write_bytes
from .adapter_folder import ADAPTER_CONFIG, relabelled
from .card_figures import read_curves, teacher_figure, training_figure
from .card_metadata import licence_of, metadata, non_commercial
from .readme_merge import BEGIN, END, merge_readme
from .results import verdict
from .run_facts import MACHINE_OPTIONS
from .run_records import (
    HUB,
    RunRecords,
    cohort_start,
    count_teachers,
    hub_id,
    is_timm,
    measured_samples,
    model_type,
    onnx_facts,
    read_records,
    rule_facts,
    selected_value,
)
from .task_words import TaskWords
from .text import (
    ABSOLUTE,
    TOKEN,
    Markdown,
    code,
    dump_front_matter,
    duration,
    escape,
    fence,
    last_part,
    link,
    number,
    scrub_command,
    scrub_value,
    sentence,
    spread,
)

TEMPLATE = Path(__file__).with_name("model_card_template.md")

METHOD_CITATION = """@article{jain2025simplifying,
  title   = {Simplifying Knowledge Transfer in Pretrained Models},
  author  = {Jain and Karthik and Gandhi},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  note    = {arXiv:2510.22208}
}"""

TIMM_SNIPPET = """import timm

model = timm.create_model({model}, pretrained=True)"""

EXAMPLES = Path("report") / "examples.png"
"""The figure of a run that [`examples`] draws."""


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
    others: list[Markdown]
    dataset: Markdown | None
    control_only: bool
    frozen: bool

    # How good it is, on the test split.
    rows: list[dict[str, str]]
    measured: dict[str, Any]
    verdict: str | None
    delta: dict[str, float | None] | None
    fell_below_start: bool
    flips: dict[str, Mapping[str, float]]
    classes: dict[str, list[dict[str, Any]]]

    # Who taught it: shares of decisions over all seeds.
    teachers: list[dict[str, Any]]

    # How to use it, and what the snippet printed; which rows the figure of examples shows.
    usage: dict[str, Any]
    examples: list[int | str]
    onnx: dict[str, Any]

    # How it was made.
    data: Mapping[str, Any]
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
    licence: str | None
    non_commercial: list[tuple[str, str]]
    base_citation: str | None

    figures: Mapping[str, str]
    """Paths inside the peer's folder, by `"teachers"`, `"training"` and `"examples"`."""


def build_card(run: RunRecords, name: str, counts: Mapping[str, int], figures: Mapping[str, str]) -> CardData:
    """The facts of one peer's card; `counts` are those of [`count_teachers`]."""
    peer = run.peers[name]
    result = (run.results.get("peers") or {}).get(name) or {}
    delta = result.get("delta")
    seeds = run.fact("seeds") or []
    start, after = (result.get(key, {}).get(run.words.metric) for key in ("start", "mutual"))
    return CardData(
        name=name,
        words=run.words,
        architecture=peer.get("architecture") or "",
        parameters=peer.get("parameters"),
        base=source_link(peer),
        adapter=(peer.get("adapter") or {}) if (run.folder / name / ADAPTER_CONFIG).is_file() else {},
        others=[link(other, run.address(other)) for other in run.peers if other != name],
        dataset=dataset_link(run.fact("dataset") or {}),
        control_only=run.is_control,
        frozen=run.record["peers"][name].get("frozen", False),
        rows=result_rows(run, result),
        measured={
            "seeds": seeds,
            "steps": run.results.get("steps"),
            "samples": measured_samples(run),
            "centre_prior": with_unit(run.words, cohort_start(run).get(f"centre_prior_{run.words.metric}")),
            "kept": with_unit(run.words, selected_value(run, result)),
        },
        verdict=verdict(delta, len(seeds)) if delta else None,
        delta=delta,
        fell_below_start=start is not None and after is not None and after < start,
        flips=flip_rows(result),
        classes=class_rows(run, result),
        teachers=teacher_rows(run, name, counts),
        usage=usage(run, name),
        onnx=onnx_facts(run, name),
        examples=(run.fact("examples") or {}).get("rows") or [],
        data=data_facts(run.fact("dataset") or {}),
        objective=run.record.get("objective") or {},
        rule=rule_facts(run),
        hyperparameters=hyperparameters(run),
        hardware=run.fact("hardware") or {},
        seconds={arm: values for arm, values in (run.results.get("seconds") or {}).items() if values},
        selected_step=run.selected_step(name),
        co2_kg=run.fact("co2_kg"),
        command=scrub_command(str(run.fact("command") or "")),
        command_is_cut=bool(ABSOLUTE.search(str(run.fact("command") or ""))),
        versions=run.fact("versions") or {},
        licence=licence_of(peer),
        non_commercial=non_commercial(run, name, counts),
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


def result_rows(run: RunRecords, result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of before, control and after, in the units that the task shows."""
    rows = []
    for key, title in run.words.shown.items():
        values = {arm: result[arm].get(key) for arm in ("start", "control", "mutual") if arm in result}
        known = values and all(isinstance(value, int | float) and math.isfinite(value) for value in values.values())
        if not known or (key.startswith("top5") and len(run.labels) <= 5):
            continue
        share, decides = run.words.is_share(key), key == run.words.metric
        row = {"metric": title}
        for arm, value in values.items():
            seeds = (result.get("per_seed") or {}).get(arm, []) if decides else []
            row[arm] = number(value, share) + spread(seeds, share)
        if "control" in values:
            gains = result.get("delta") if decides else None
            sd = gains["sd"] if gains else None
            row["difference"] = number(values["mutual"] - values["control"], share, sign=True) + (
                f" ± {number(sd, share)}" if sd is not None else ""
            )
        rows.append(row)
    return rows


def flip_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Positive and negative flips of each arm that has them."""
    arms = {"this model": result, "control": result.get("control_flips") or {}}
    keys = ("positive_flips", "negative_flips")
    return {arm: values for arm, values in arms.items() if all(values.get(key) is not None for key in keys)}


def class_rows(run: RunRecords, result: Mapping[str, Any], most: int = 5) -> dict[str, list[dict[str, Any]]]:
    """The classes with the largest gains and losses against the control, or the start where there is no control."""
    by_class = result.get("by_class") or {}
    after, base = by_class.get("mutual"), by_class.get("control") or by_class.get("start")
    if not (after and base):
        return {}
    changes = []
    for index, label in enumerate(run.labels[: len(after)]):
        values = {arm: column[index] for arm, column in by_class.items()}
        if None not in values.values() and abs(after[index] - base[index]) >= 0.00005:
            changes.append({"label": label, "change": after[index] - base[index], **values})
    better = sorted((row for row in changes if row["change"] > 0), key=lambda row: -row["change"])
    worse = sorted((row for row in changes if row["change"] < 0), key=lambda row: row["change"])
    return {title: rows[:most] for title, rows in (("better", better), ("worse", worse)) if rows}


def teacher_rows(run: RunRecords, name: str, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Who taught, on which share of the decisions, from which start and under which licence."""
    total = sum(counts.values())
    rows: list[dict[str, Any]] = [
        {
            "who": other,
            "own": other == name,
            "link": link(other, run.address(other)),
            "share": counts[other] / total,
            "source": source_link(peer),
            "licence": licence_of(peer),
        }
        for other, peer in run.peers.items()
        if total
    ]
    others = {"<mean>": "mean of all peers", "<all>": "all other peers", "nobody": "nobody"}
    return rows + [{"who": who, "share": counts[key] / total} for key, who in others.items() if counts.get(key)]


def usage(run: RunRecords, name: str) -> dict[str, Any]:
    """The snippet, for timm peers also theirs, and what it printed when it was run."""
    folder, repository = run.folder / name, run.repositories.get(name)
    if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
        return {}
    model = json.dumps(repository or name)
    snippet = relabelled(run.words.snippet_of(model_type(run, name)), folder, repository or name)
    if not snippet:
        return {}
    found = {"snippet": snippet.format(model=model, example=json.dumps(run.words.example))}
    if is_timm(run, name) and name in run.repositories:
        found["timm"] = TIMM_SNIPPET.format(model=json.dumps(f"hf-hub:{run.repositories[name]}"))
    output = (run.fact("usage") or {}).get(name)
    return found | ({"output": output, "example": run.fact("example") or {}} if output else {})


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


def hyperparameters(run: RunRecords) -> dict[str, dict[str, str]]:
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


def render(card: CardData, data: Mapping[str, Any]) -> str:
    """The whole README."""
    environment = Environment(finalize=escape, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"code": code, "fence": fence, "sentence": sentence, "duration": duration, "ours": Markdown}
    environment.globals = {
        "number": number,
        "METHOD_CITATION": METHOD_CITATION,
        "BEGIN": Markdown(BEGIN),
        "END": Markdown(END),
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return TOKEN.sub("(hidden)", dump_front_matter(data) + template.render(card=card))


def draw_figures(run: RunRecords, name: str, counts: Mapping[str, int]) -> dict[str, bytes]:
    """The figures for which there are numbers."""
    drawn = {}
    if shares := [(row["who"], row["share"]) for row in teacher_rows(run, name, counts)]:
        drawn["teachers"] = teacher_figure(shares, name)
    if curves := read_curves(run.arm_folders(), name, run.words.metric):
        drawn["training"] = training_figure(curves, run.words.shown[run.words.metric], run.selected_step(name))
    if (run.folder / EXAMPLES).is_file():
        drawn["examples"] = (run.folder / EXAMPLES).read_bytes()
    return drawn


def write_cards(
    run_dir: str | Path, peers: Sequence[str] | None = None, repositories: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Build the card of each peer inside its folder: `README.md` and `figures/*.png`. Needs no network.

    Args:
        run_dir (`str` or `Path`): a run, also one that has not ended: what is not known yet is left out.
        peers (`list[str]`, *optional*): whose cards; all that have a folder when unset.
        repositories (`dict[str, str]`, *optional*): the Hub id each peer goes to, for links and the snippet; those in
            `cohort.json` when unset.

    Returns:
        `dict[str, Path]`: the cards, by peer. A card that was there keeps what its user wrote ([`merge_readme`]).

    Raises:
        [`OutputFolderError`]: no run, or a damaged record.
        [`PeerError`]: a peer that the run does not have, that has no folder yet, or whose
            README.md has metadata that cannot be read.
    """
    run = read_records(Path(run_dir), repositories)
    for name in peers or ():
        if name not in run.peers or not (run.folder / name).is_dir():
            raise PeerError(f"{run.folder} has no peer {name!r}; its peers are {', '.join(run.peers)}")
    counts = {} if run.is_control or len(run.peers) == 1 else count_teachers(run)
    written = {}
    for name in peers or [name for name in run.peers if (run.folder / name).is_dir()]:
        folder = run.folder / name
        figures = draw_figures(run, name, counts)
        for figure in ("teachers", "training", "examples"):
            _write(folder / "figures" / f"{figure}.png", figures.get(figure))
        card = build_card(run, name, counts, {figure: f"figures/{figure}.png" for figure in figures})
        text, path = render(card, metadata(run, name)), folder / "README.md"
        present = path.read_text(encoding="utf-8") if path.is_file() else None
        _write(path, merge_readme(text, present, f"{name}/README.md").encode())
        written[name] = path
    return written


def _write(path: Path, content: bytes | None) -> None:
    """Write a file; without content remove an old one."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_bytes(path, content)
