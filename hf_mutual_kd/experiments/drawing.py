"""Drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.collator import SAMPLE_ID, rows_with
from ..reports.drawn import DRAWN, MOST_DRAWN, write_drawn
from ..reports.measured import MEASURED, choose_changes, read_measured


def draw_changed(before: Any, after: Any, rows: Any, folder: Path) -> None:
    """
    Keep the test samples whose score changed most in a run, see [`choose_changes`].

    Args:
        before ([`Cohort`]): the peers as they started.
        after ([`Cohort`]): the peers with the weights in `folder`.
        rows: the test split, as it was measured.
        folder (`Path`): of the run; one that recorded nothing stays as it is.
    """
    measured = read_measured(folder / MEASURED, before.names)
    if measured is None:
        return
    ids = [int(measured.ids[row]) for row in choose_changes(measured, MOST_DRAWN)]
    found = {int(row[SAMPLE_ID]): before.task.draw(before, after, row) for row in rows_with(rows, ids)}
    write_drawn(folder / DRAWN, before.names, [one for identity in ids if (one := found.get(identity)) is not None])
