"""Drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.collator import SAMPLE_ID, IdentifiedStream, identified
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


def rows_with(rows: Any, ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """The rows of a split that have these sample ids, in the order of the split."""
    wanted, known = set(ids), identified(rows)
    if known is None:
        return
    if isinstance(known, IdentifiedStream):
        source: Iterator[Any] = iter(known)
    elif hasattr(rows, "sample_ids"):
        numbers = rows.sample_ids()
        source = (known[place] for place, identity in enumerate(numbers) if identity in wanted)
    else:
        source = (known[place] for place in sorted(wanted))
    for row in source:
        if row[SAMPLE_ID] in wanted:
            wanted.remove(row[SAMPLE_ID])
            yield row
        if not wanted:
            return
