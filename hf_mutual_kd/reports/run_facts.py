"""What a run records for its cards; each function returns facts that JSON can hold."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from ..config.recipe import to_plain
from ..config.task_options import own_fields
from ..config.values import is_secret
from ..errors import PeerError
from .adapter_folder import ADAPTER_CONFIG, adapted, model_type_of
from .run_record import COMMIT, REPOSITORY
from .task_words import TaskWords
from .text import one_line, split_readme


def base_facts(source: str, revision: str | None = None) -> dict[str, Any]:
    """What the card of a peer's source says of itself; recorded under `peers[NAME]["base"]` of `cohort.json`.

    Args:
        source (`str`): a folder, or a Hub id; of the Hub's the `README.md` is fetched, or read from the cache.
        revision (`str`, *optional*): commit on the Hub; without one only folders are read.

    Returns:
        `dict`: those of `license`, `license_name`, `license_link`, `language`, `tags` and `citation` (BibTeX) that the
        card has; empty where there is no card, or none can be reached.
    """
    readme = Path(source) / "README.md"
    if not Path(source).is_dir():
        if not (REPOSITORY.fullmatch(source) and COMMIT.fullmatch(revision or "")):
            return {}
        try:
            readme = Path(hf_hub_download(source, "README.md", revision=revision))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
            return {}
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    try:
        metadata, body = split_readme(text)
    except PeerError:
        metadata, body = {}, text
    facts: dict[str, Any] = {}
    for key in ("license", "license_name", "license_link", "language", "tags"):
        value = metadata.get(key)
        items = [
            one_line(item, 200) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)
        ]
        if items := [item for item in items if item]:
            facts[key] = items if isinstance(value, list) else items[0]
    if citation := find_bibtex(body):
        facts["citation"] = citation
    return facts


def find_bibtex(text: str) -> str | None:
    """The first BibTeX entry of a README, up to its closing brace."""
    for start in re.finditer(r"^[ \t]*@[A-Za-z]+\{", text, re.MULTILINE):
        depth = 0
        for end, character in enumerate(text[start.start() : start.start() + 4000], start.start()):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "}" and depth == 0:
                return text[start.start() : end + 1].strip()
    return None


def objective_facts(objective: Any) -> dict[str, Any]:
    """How an [`Objective`] describes itself; recorded as `objective` of `cohort.json`."""
    source_citation = {"citation": objective.source.citation} if objective.source.citation else {}
    return {
        "rule": {key: getattr(objective.rule, key) for key in ("name", "description", "citation")},
        "source": {key: getattr(objective.source, key) for key in ("name", "description")} | source_citation,
        **({"calibrate": True} if objective.rule.calibrate else {}),
        "score": objective.score if objective.rule.needs_scores else None,
        **{key: getattr(objective, key) for key in ("retain", "detach", "temperature", "weight")},
        **{key: getattr(objective, key) for key in ("labels", "unlabelled_rows")},
    }


MACHINE_OPTIONS = re.compile(
    r"output_dir|overwrite_output_dir|logging_dir|run_name|resume_from_checkpoint|local_rank|ddp_.*|push_to_hub|hub_.*"
    r"|project|trackio_.*|report_to|disable_tqdm"
)
"""Options that say where a run was or to whom it belongs, not how the model was trained."""


def hyperparameter_facts(given: Collection[str], *options: Any, own: Any = None) -> dict[str, dict[str, Any]]:
    """All options of a run; recorded as `hyperparameters` of `cohort.json`.

    Args:
        given (`dict`): what recipe, file and command line set ([`Recipe`]`.given`).
        *options: the configuration and the recipe's options, dataclass instances.
        own ([`RecipeOptions`], *optional*): a task's, of which only its own count.

    Returns:
        `dict`: `changed`, the given ones that differ from their class's default, and `defaults`, all others that are
        set; without secrets and without what belongs to the machine.
    """
    facts: dict[str, dict[str, Any]] = {"changed": {}, "defaults": {}}
    held = [(instance, item) for instance in options for item in fields(instance)]
    for instance, item in held + [(own, item) for item in (own_fields(own) if own else ())]:
        value = getattr(instance, item.name, None)
        value = to_plain(value) if isinstance(value, Enum | dict) else value
        left_out = is_secret(item.name) or MACHINE_OPTIONS.fullmatch(item.name) or item.name.startswith("_")
        if left_out or value in (None, [], {}) or not isinstance(value, bool | int | float | str | list | dict):
            continue
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = default.value if isinstance(default, Enum) else default
        facts["changed" if item.name in given and value != default else "defaults"][item.name] = value
    return facts


def hardware_facts(processes: int = 1) -> dict[str, Any]:
    """The device that trains; recorded as `hardware` of `cohort.json`."""
    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "processes": processes}
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    # `platform.processor` may start a process, which of one of this size takes a third of a second.
    name = found[1] if found else platform.processor() or platform.machine()
    return {"device": name, "processes": processes, "cores": os.cpu_count()}


@contextlib.contextmanager
def emissions_tracker() -> Iterator[Any]:
    """Measure emissions where codecarbon is installed; record `tracker.final_emissions` (kg CO₂) as `co2_kg`.

    Yields:
        `codecarbon.EmissionsTracker`, or `None` without codecarbon.
    """
    try:
        from codecarbon import EmissionsTracker
    except ImportError:
        EmissionsTracker = None
    if EmissionsTracker is None:
        # Outside of the `except`: what fails in the block has nothing to do with codecarbon.
        yield None
        return
    with EmissionsTracker(save_to_file=False, log_level="error") as tracker:
        yield tracker


def run_snippet(peer_dir: str | Path, example: str, words: TaskWords) -> str | None:
    """Run the card's snippet on a saved peer; recorded as `usage[NAME]` of `results.json`.

    Args:
        peer_dir (`str` or `Path`): the peer's folder.
        example (`str`): what the snippet is run on, as a Python literal: a path, or a text.
        words ([`TaskWords`]): of the task, with the snippet.

    Returns:
        `str`: what the snippet printed; `None` where the folder is no model of transformers or there is no snippet.
        Random states of Python, numpy and torch stay as they were.
    """
    import random
    from io import StringIO

    import numpy as np
    import torch

    peer_dir = Path(peer_dir)
    if not (peer_dir / "config.json").is_file() and not (peer_dir / ADAPTER_CONFIG).is_file():
        return None
    snippet = adapted(words.snippet_of(model_type_of(peer_dir)), peer_dir, words, place=str(peer_dir))
    if not snippet:
        return None
    states = random.getstate(), np.random.get_state()
    printed = StringIO()
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
            program = snippet.format(model=repr(str(peer_dir)), example=example)
            exec(compile(program, "the card's snippet", "exec"), {})  # the task's own text; only two literals vary
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return printed.getvalue().rstrip()
