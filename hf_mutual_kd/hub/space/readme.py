"""The README of a Space: its metadata by the Hub's rules, and what there is to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...reports.card_data import dataset_link, source_link
from ...reports.card_metadata import LICENSES, TAGS
from ...reports.card_metadata import license_of as license
from ...reports.readme_merge import BEGIN, END
from ...reports.run_record import RunRecord, hub_id
from ...reports.text import Markdown, dump_front_matter, escape, last_part, link, one_line, sentence
from ...tasks.space import SpaceTask

GRADIO = "6.31.0"
"""The version that the tests drive."""
LONGEST_TITLE, LONGEST_DESCRIPTION = 60, 60
APP_LICENSE = "apache-2.0"


def readme(
    run: RunRecord, names: Sequence[str], models: Sequence[str], peers: Sequence[dict[str, Any]], task: SpaceTask
) -> str:
    """
    The whole README.

    Args:
        run ([`RunRecord`]): of which the Space is made.
        names (`list[str]`): peers that it shows.
        models (`list[str]`): Hub ids that it fetches.
        peers (`list[dict]`): what `facts.json` says of each.
        task ([`SpaceTask`]): the run's.
    """
    facts = run.dataset
    dataset = dataset_link(facts)
    rows = [
        f"| {link(peer['name'], peer['card'])} | {source_link(run.peers[peer['name']]) or ''} | "
        f"{escape(license(run.peers[peer['name']]) or 'not stated')} | {sentence(peer['said'])} |"
        for peer in peers
    ]
    table = "\n".join(["| peer | started from | licence | |", "| --- | --- | --- | --- |", *rows])
    data = f" on {dataset}" if dataset else ""
    samples = f" The samples are {task.unit} of {dataset}; its terms hold for them." if dataset else ""
    note = f" {sentence(str(facts['note']))}" if facts.get("note") else ""
    body = f"""{BEGIN}
# {escape(", ".join(names), 200)}: before and after

Pretrained models for {run.words.title} that taught each other{data}: on every sample the peer that knows the truth
best teaches, the others learn ([arXiv 2510.22208](https://arxiv.org/abs/2510.22208)). Give {task.thing}, or pick a
sample, to see what each peer said of it before, what it says now, and who would teach whom.{note}

{table}

The app runs on a CPU, loads a peer when it is asked for, and deletes uploads after an hour. Its own code is
Apache-2.0; each peer has the licence of what it started from.{samples} Made with `hf-mutual-kd space`.
{END}
"""
    return dump_front_matter(metadata(run, names, models)) + Markdown(body)


def metadata(run: RunRecord, names: Sequence[str], models: Sequence[str]) -> dict[str, Any]:
    """The YAML, by https://huggingface.co/docs/hub/spaces-config-reference; what is not known is absent."""
    facts, shown = run.dataset, ", ".join(names)
    dataset = hub_id(facts.get("name"), facts.get("revision"))
    python = ".".join(str((run.fact("versions") or {}).get("python") or "").split(".")[:2])
    about = f"Models that taught each other on {last_part(str(facts.get('name') or 'data'))}"
    found = {
        "title": one_line(f"{shown}: before and after", LONGEST_TITLE),
        "emoji": "🎓",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": python,
        "app_file": "app.py",
        "pinned": False,
        "short_description": one_line(about, LONGEST_DESCRIPTION),
        "license": _licenses(run, names),
        "models": list(dict.fromkeys(models)),
        "datasets": [dataset] if dataset else [],
        "tags": list(TAGS),
    }
    return {key: value for key, value in found.items() if value not in (None, "", [])}


def _licenses(run: RunRecord, names: Sequence[str]) -> str | list[str] | None:
    """The app's licence, with those of the peers; none where a peer's is not stated or not on the Hub's list."""
    found = [license(run.peers[name]) for name in names]
    stated = {part for one in found if one for part in one.split(", ")}
    if None in found or not stated <= LICENSES:
        return None
    listed = sorted(stated | {APP_LICENSE})
    return listed if len(listed) > 1 else listed[0]
