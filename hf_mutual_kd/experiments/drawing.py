"""Drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.collator import SAMPLE_ID, rows_with
from ..reports.pictures import MOST_PICTURES, PICTURES, write_pictures
from ..reports.samples import SAMPLES_FILE, choose_changes, read_samples


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
