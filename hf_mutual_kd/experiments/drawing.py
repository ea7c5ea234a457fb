"""What is shown of a finished run: test samples as its peers see them, and what the cards' snippet prints."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers.utils import logging

from ..data.collator import SAMPLE_ID, rows_with
from ..data.splits import Splits
from ..reports.model_card import EXAMPLES
from ..reports.pictures import MOST_PICTURES, PICTURES, write_pictures
from ..reports.results import Results
from ..reports.run_facts import run_snippet
from ..reports.samples import SAMPLES_FILE, choose_changes, read_samples
from ..tasks.base import Task

logger = logging.get_logger(__name__)


def draw_changed(before: Any, after: Any, rows: Any, folder: Path) -> None:
    """
    Keep the test samples whose score changed most in a run, see [`choose_changes`].

    Args:
        before ([`Cohort`]): the peers as they started.
        after ([`Cohort`]): the peers with the weights in `folder`.
        rows: the test split, as it was measured.
        folder (`Path`): of the run; one that recorded nothing stays as it is.
    """
    measured = read_samples(folder / SAMPLES_FILE, before.names)
    if measured is None:
        return
    ids = [int(measured.ids[row]) for row in choose_changes(measured, MOST_PICTURES)]
    found = {int(row[SAMPLE_ID]): before.task.draw(before, after, row) for row in rows_with(rows, ids)}
    chosen = [one for identity in ids if (one := found.get(identity)) is not None]
    write_pictures(folder / PICTURES, before.names, chosen)


def draw_samples(before: Any, after: Any, rows: Any, folder: Path) -> dict[str, Any]:
    """Draw samples from all over the test split, and those that changed most; says which the first are."""
    examples = example_rows(rows)
    before.task.examples(before, after, examples, folder / EXAMPLES)
    draw_changed(before, after, rows, folder)
    return {"rows": [row.get("name", row[SAMPLE_ID]) for row in examples]}


def add_usage(results: Results, task: Task, splits: Splits, run: Path) -> None:
    """Let results say what the cards' snippet prints for each peer in the folder of a run, and for which row."""
    row = next(iter(splits.test))
    with tempfile.TemporaryDirectory() as folder:
        example = task.snippet_example(row, Path(folder))
        if example is None:
            return
        found = {name: printed_by(run / name, example, task) for name in results.peers}
    results.usage = {name: text for name, text in found.items() if text is not None}
    results.example = {"row": 0}
    label = row.get("label")
    if splits.label_names and isinstance(label, int) and label >= 0:
        results.example["label"] = splits.label_names[label]


def printed_by(peer: Path, example: str, task: Task) -> str | None:
    """What the code of a peer's card prints; `None` where it fails here, as with a decoder that is half installed."""
    try:
        return run_snippet(peer, example, task.words)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logger.warning(f"the code of {peer.name}'s card fails on this machine, and its card shows no output: {error}")
        return None


def example_rows(rows: Any, most: int = 4) -> list[dict[str, Any]]:
    """Rows from all over a data set, the first of a stream, each with its place in it as `sample_id`."""
    if isinstance(rows, IterableDataset):
        return [{SAMPLE_ID: index, **row} for index, row in enumerate(itertools.islice(rows, most))]
    count = min(most, len(rows))
    return [{SAMPLE_ID: index, **rows[index]} for index in (len(rows) * place // count for place in range(count))]
