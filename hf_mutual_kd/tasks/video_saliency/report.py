"""What a report of video saliency shows: all metrics, single videos, and the frames that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...reports.blocks import Cell, Filter, Picture, Section, Table, Text, shaded
from ...reports.pictures import SampleImages, encoded, read_map
from ...reports.report_data import ReportData
from ...reports.results import PeerResult
from ...reports.samples import SAMPLE, Samples
from ...reports.scenes import Score, decoded, scenes_of
from ...reports.text import number
from .figures import overlay

ARMS = {"start": "start", "control": "control", "after": "mutual"}
"""What an arm is called on the page, and in `results.json`."""

FULL = 0.1
"""The relative change of a metric that is shaded fully, and the change of a CC."""

MOST_VIDEOS = 8
"""Of each peer, those that gained most and those that lost most."""

MEAN_OVER_VIDEOS = "video_"


def metrics_section(data: ReportData) -> Section | None:
    """Every metric of every peer as mean over frames and over videos, and how steady the maps are in time."""
    blocks: list[Any] = []
    for name, peer in data.run.peer_results.items():
        for prefix, caption in (("", "metrics"), (MEAN_OVER_VIDEOS, "metrics, means over each video's mean")):
            found = [
                _row(title, peer, f"{prefix}{key}", "smaller is better" in title)
                for key, title in data.run.words.shown.items()
            ]
            if rows := [row for row in found if row is not None]:
                blocks.append(Table(f"{name}: {caption}", ("metric", *_columns(peer)), rows, bool(prefix)))
    steady = _consistency(data)
    if not blocks:
        return None
    words = Text(
        "Means over frames; folded, those in which every video weighs the same. Blue is better, orange worse."
    )
    return Section("metrics", "Metrics", [words, *blocks, *steady])


def _columns(peer: PeerResult) -> list[str]:
    has_control = "control" in peer.arms
    return ["start", *(["control"] if has_control else []), "after", "after − start"] + (
        ["after − control"] if has_control else []
    )


def _row(title: str, peer: PeerResult, key: str, less_is_better: bool) -> list[str | Cell] | None:
    """A metric of one peer in all its arms, `None` where one lacks it."""
    found = {arm: peer.value(name, key) for arm, name in ARMS.items() if name in peer.arms}
    values = {arm: value for arm, value in found.items() if value is not None}
    if len(values) < len(found):
        return None
    sign = -1 if less_is_better else 1
    changes = [
        shaded(_signed(values["after"] - base), sign * (values["after"] - base) / max(abs(base), 1e-9), FULL)
        for base in (values[arm] for arm in ("start", "control") if arm in values)
    ]
    return [title, *(number(value, False) for value in values.values()), *changes]


def _signed(value: float) -> str:
    return number(value, False, sign=True)


def _consistency(data: ReportData) -> list[Any]:
    truth = data.run.cohort_start.get("truth_consistency")
    peers = {
        name: {arm: value for arm, key in ARMS.items() if (value := peer.value(key, "consistency")) is not None}
        for name, peer in data.run.peer_results.items()
    }
    if truth is None or not all({"start", "after"} <= set(values) for values in peers.values()):
        return []
    arms = [arm for arm in ARMS if all(arm in values for values in peers.values())]
    rows: list[list[str | Cell]] = []
    for name, values in peers.items():
        nearer = abs(values["start"] - truth) - abs(values["after"] - truth)
        cells = [number(values[arm], False) for arm in arms[:-1]]
        rows.append([name, *cells, shaded(number(values["after"], False), nearer, FULL), number(truth, False)])
    return [
        Text(
            "Consistency is the mean CC of consecutive measured frames of a shot. Maps should change as much as "
            "where people look does: blue is nearer to the truth's than at the start, orange farther."
        ),
        Table("Consistency in time", ("peer", *arms, "truth"), rows),
    ]


def videos_section(data: ReportData) -> Section | None:
    """The videos on which each peer gained and lost most."""
    parts = {arm: data.samples.get(arm) or [] for arm in ("mutual", "control")}
    if not parts["mutual"] or "videos" not in parts["mutual"][0].facts:
        return None
    first, metric = parts["mutual"][0], data.run.words.metric
    place = first.facts["metrics"].index(metric)
    means = {"start": _by_video(parts["mutual"], "start", place), "after": _by_video(parts["mutual"], "after", place)}
    means |= {"control": _by_video(parts["control"], "after", place)} if parts["control"] else {}
    base = "control" if parts["control"] else "start"
    names, frames = first.facts["videos"], first.after["video_frames"].tolist()
    blocks: list[Any] = []
    for index, peer in enumerate(data.peers):
        change = means["after"][:, index] - means[base][:, index]
        order = [int(video) for video in np.argsort(-change, kind="stable") if np.isfinite(change[video])]
        cut = len(order) > 2 * MOST_VIDEOS
        rows: list[list[str | Cell]] = [
            [
                str(names[int(first.after["videos"][video])]),
                f"{frames[video]:,}",
                *(
                    number(float(means[arm][video, index]), False)
                    for arm in ("start", "control", "after")
                    if arm in means
                ),
                shaded(_signed(float(change[video])), float(change[video]), FULL),
            ]
            for video in ([*order[:MOST_VIDEOS], *order[-MOST_VIDEOS:]] if cut else order)
        ]
        which = f", the {MOST_VIDEOS} that gained and the {MOST_VIDEOS} that lost most" if cut else ""
        columns = (
            "video",
            "frames",
            *(arm for arm in ("start", "control", "after") if arm in means),
            f"after − {base}",
        )
        blocks.append(Table(f"{peer}: {metric} by video{which}", columns, rows))
    return Section(
        "videos", "Videos", [Text(f"{metric} is the mean over each video's frames and over seeds."), *blocks]
    )


def _by_video(parts: Sequence[Samples], phase: str, place: int) -> np.ndarray:
    """`[V, N]`: one metric of every video and peer, the mean over seeds."""
    return np.mean([(part.start if phase == "start" else part.after)["video_means"][:, :, place] for part in parts], 0)


def frames_section(data: ReportData) -> Section | None:
    """The frames whose score changed most, with every peer's map over them."""
    measured = next(iter(data.samples.get("mutual", [])), None)
    if measured is None or not data.pictures:
        return None
    groups, names = measured.start[f"{SAMPLE}group"], measured.facts["videos"]

    def pictures(one: SampleImages, row: int) -> tuple[list[Picture], dict[str, str]]:
        frame, truth = decoded(one.image), read_map(one.truth)
        found = [
            Picture(one.image, f"{one.name}, as it is", "frame"),
            _seen(f"{one.name}, where people looked", frame, truth, "where people looked"),
        ]
        for index, peer in enumerate(data.peers):
            for phase, part in (("before", measured.start), ("after", measured.after)):
                cc = number(float(part[f"{SAMPLE}cc"][row, index]), False)
                density = read_map(one.maps[f"{phase}/{peer}"])
                found.append(_seen(f"{one.name}, {peer} {phase}, CC {cc}", frame, density, f"{peer} {phase}: {cc}"))
        return found, {"video": str(groups[row])}

    kept = [row for row in measured.rows_of([one.id for one in data.pictures]) if row is not None]
    by_video = Filter("video", "Video", [(str(video), names[video]) for video in sorted(set(groups[kept].tolist()))])
    scenes = scenes_of(data, pictures, 2, score=Score("CC − KLD", False, 0.5), filters=[by_video])
    if scenes is None:
        return None
    return Section(
        "frames",
        "Frames that changed most",
        [
            Text(
                "For every peer and direction in turn, those test frames whose score changed most, of as many videos "
                "as there are. The score is CC − KLD, by which peers are ranked: higher is better. These are the "
                "weights in the run's folders."
            ),
            Text(
                "Maps lie over the dimmed frame, the lighter the likelier, relative to each map's peak. The number "
                "under a map is its CC with the truth."
            ),
            scenes,
        ],
    )


def _seen(sentence: str, frame: np.ndarray, density: np.ndarray, caption: str) -> Picture:
    content = encoded(Image.fromarray(overlay(frame, density.astype(np.float32))), "JPEG", quality=80)
    return Picture(content, f"{sentence}; most likely {_place_of_peak(density)}", caption)


def _place_of_peak(density: np.ndarray) -> str:
    """Where in the frame the largest value is: `"at the top left"`, `"in the middle"`."""
    row, column = np.unravel_index(int(density.argmax()), density.shape)
    words = (
        ("top", "", "bottom")[3 * int(row) // density.shape[0]],
        ("left", "", "right")[3 * int(column) // density.shape[1]],
    )
    named = " ".join(word for word in words if word)
    return f"at the {named}" if named else "in the middle"
