"""What every report ends with: examples, where there are any, and how the run was made."""

from __future__ import annotations

from typing import Any

from .blocks import Code, Figures, Links, Section, Table
from .card_data import data_facts, hyperparameters
from .figures import Figure
from .model_card import EXAMPLES
from .report_data import ReportData
from .text import scrub_command


def examples_section(data: ReportData) -> Section | None:
    """The figure of examples that tasks with maps draw."""
    path = data.run.folder / EXAMPLES
    if not path.is_file():
        return None
    drawn = path.read_bytes()
    rows = ", ".join(map(str, (data.run.fact("examples") or {}).get("rows") or []))
    alt = f"Test samples {rows} with what every peer says of them." if rows else "Test samples with what peers say."
    return Section("examples", "Examples", [Figures([Figure("examples", alt, drawn, drawn, data.run.words.examples)])])


FILES = ("results.json", "cohort.json", "roles.parquet", "history.jsonl", "report/samples.safetensors")


def _files(data: ReportData) -> list[tuple[str, str]]:
    """The run's records and models, for a page in the run's own `report`."""
    there = [name for name in FILES if (data.run.folder / name).is_file()]
    models = [f"{name}/" for name in data.peers if (data.run.folder / name).is_dir()]
    return [(name, f"../{name}") for name in (*there, *models)] if data.inside else []


def making_section(data: ReportData) -> Section:
    """Peers, data, options, command and versions."""
    run = data.run
    blocks: list[Any] = [Links(files)] if (files := _files(data)) else []
    sources = [
        [name, peer.get("architecture") or "–", f"{peer['parameters']:,}" if peer.get("parameters") else "–"]
        for name, peer in run.peers.items()
    ]
    blocks.append(Table("Peers", ("peer", "architecture", "parameters"), sources, words=2))
    facts = data_facts(run.dataset)
    if facts.get("splits"):
        splits = [
            [split["role"], split["origin"]]
            + ["–" if split[key] is None else f"{split[key]:,}" for key in ("rows", "labelled")]
            for split in facts["splits"]
        ]
        blocks.append(Table("Data", ("split", "rows from", "samples", "with a label"), splits, words=2))
    for part, values in hyperparameters(run).items():
        title = "Options set for this run" if part == "changed" else "Options at their defaults"
        blocks.append(Table(title, ("option", "value"), list(values.items()), True))
    versions = list((run.fact("versions") or {}).items())
    if versions:
        blocks.append(Table("Versions", ("package", "version"), versions, True))
    if run.fact("command"):
        blocks.append(Code(scrub_command(str(run.fact("command")))))
    return Section("making", "How it was made", blocks)
