"""The test samples that changed most, with every peer's map: what the tasks with maps share of that section."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .blocks import Cell, Filter, Picture, Scene, Scenes, Table, shaded
from .pictures import SampleImages
from .report_data import ReportData
from .samples import SAMPLE, Samples
from .text import number

KINDS = (("better", "better than before"), ("worse", "worse than before"))


@dataclass(frozen=True)
class Score:
    """How a score is shown: its name, whether it is a share (in percent), and the change that is shaded fully."""

    name: str
    share: bool
    full: float


Pictures = Callable[[SampleImages, int], tuple[Sequence[Picture], Mapping[str, str]]]
"""From a sample and its row among the measured to its pictures and to what else it can be found by."""


def scenes_of(
    data: ReportData,
    pictures: Pictures,
    columns: int,
    *,
    score: Score,
    filters: Sequence[Filter],
    legend: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> Scenes | None:
    """
    The samples that a run drew, in the order in which they were chosen; `None` for a run without any.

    Args:
        data ([`ReportData`]): the run.
        pictures (callable): see [`Pictures`].
        columns (`int`): pictures beside each other.
        score ([`Score`]): what `sample/score` is.
        filters (`list[Filter]`): beside those by peer, change and teacher.
        legend (`dict[str, list[tuple[str, str]]]`, *optional*): texts and colours under headings.
    """
    measured = next(iter(data.samples.get("mutual", [])), None)
    control = next(iter(data.samples.get("control", [])), None)
    if measured is None:
        return None
    rows = measured.rows_of([one.id for one in data.pictures])
    items = []
    for one, row in zip(data.pictures, rows, strict=True):
        if row is None:
            continue
        shown, values = pictures(one, row)
        place = control.rows_of([one.id])[0] if control else None
        plain = control.after[f"{SAMPLE}score"][place] if control and place is not None else None
        numbers = _numbers(one.name, measured, row, score, plain)
        teacher = int(measured.start[f"{SAMPLE}teacher"][row])
        who = data.peers[teacher] if 0 <= teacher < len(data.peers) else "nobody"
        found = {"flips": _changes(data.peers, measured, row), "teacher": who, **values}
        items.append(Scene(one.name, f"{who} would teach on it", found, shown, columns, numbers))
    common = [
        Filter("peer", "Peer", [(name, name) for name in data.peers]),
        Filter("kind", "Change", KINDS),
        Filter("teacher", "Would teach", [(name, name) for name in (*data.peers, "nobody")]),
    ]
    return Scenes(items, [*common, *filters], legend or {}) if items else None


def _changes(peers: Sequence[str], measured: Samples, row: int) -> str:
    change = measured.after[f"{SAMPLE}score"][row] - measured.start[f"{SAMPLE}score"][row]
    kinds = {name: "better" if one > 0 else "worse" for name, one in zip(peers, change.tolist(), strict=True) if one}
    return " ".join(f"{name}:{kind}" for name, kind in kinds.items())


def _numbers(name: str, measured: Samples, row: int, score: Score, plain: np.ndarray | None) -> Table:
    """Every peer's score at the start, in the control (`plain` `[N]`) and after, shaded by its change to the last
    before it."""
    before, after = (phase[f"{SAMPLE}score"][row] for phase in (measured.start, measured.after))
    arms = [before, *([plain] if plain is not None else [])]
    change = np.nan_to_num(after - arms[-1])
    rows: list[list[str | Cell]] = [
        [
            peer,
            *(number(float(values[index]), score.share) for values in arms),
            shaded(number(float(after[index]), score.share), float(change[index]), score.full),
        ]
        for index, peer in enumerate(measured.peers)
    ]
    columns = (score.name, "start", *(["control"] if plain is not None else []), "after")
    return Table(f"{score.name} of {name}", columns, rows)


def decoded(content: bytes) -> np.ndarray:
    """A kept image as RGB `[H, W, 3]`, uint8."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
