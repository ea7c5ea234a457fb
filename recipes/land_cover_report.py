"""What `recipes/land_cover_benchmark.py` found: the page with its tables, the figure of scores and the map."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mutual_kd import Difference, percent, png, render, verdict

METRICS = "mIoU", "fwIoU", "mACC", "pACC"

ARMS = {
    "start": ("start", "the shipped peers as they are"),
    "control": ("control", "each peer by its own loss alone: what fine-tuning gives without this package"),
    "pixel": (
        "own + pixel CE",
        "the control with per-pixel cross-entropy added to the loss of a head with queries, and no teacher; the other "
        "heads' own loss is that already, so that it is their control",
    ),
    "self": ("self", "each peer alone, held to its own frozen start on every tile: a teacher, but nobody else's"),
    "fixed": (
        "fixed teacher",
        "distillation: {teacher}, the best start on the validation split, teaches on every tile while it learns from "
        "the labels itself",
    ),
    "mutual": (
        "mutual",
        "the package's default: on every tile the peer with the lowest loss teaches the other two, and is itself held "
        "to its own frozen start",
    ),
    "bare": ("mutual, not held", "the same, at the same weight, without holding anybody to its start"),
    "pair": ("mutual, two", "the default in a cohort of the two specialists alone"),
}
"""Name in the tables, and what it is."""

COMPARISONS = (
    ("mutual", "control"),
    ("mutual", "pixel"),
    ("mutual", "self"),
    ("mutual", "fixed"),
    ("bare", "control"),
    ("bare", "pixel"),
    ("bare", "fixed"),
    ("pixel", "control"),
    ("self", "control"),
    ("fixed", "control"),
    ("pair", "control"),
    ("pair", "pixel"),
)
COLORS = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
NOBODY_COLOR, LAND_COLOR = "#6a6a6a", "#e4e4e4"
LATITUDES = -58.0, 88.0

Scores = dict[str, dict[str, float]]
"""`{split: {metric: share}}`."""

READING = """All numbers are percentages of {tiles} test tiles in places that nothing was trained or selected on:
means over the seeds ± their standard deviation. mIoU and mACC are means over the classes that occur, fwIoU weighs
them by how frequent they are, pACC is the share of right pixels. A seed is another order, another augmentation and
other points at which the query head's loss is sampled; the starts are the same, so that a seed says nothing of other
pretrained peers.

Arms share starts, rows, order, augmentation, steps ({steps} of {batch} tiles) and learning rates; the last step is
reported.
"""

CAUTION = """Paired over seeds, in points; **bold** where Student's 95 % interval leaves out zero. These are {count}
comparisons by four metrics from {seeds} seeds: one in twenty would be bold by chance alone. A gain of *mutual* over
the control is due to mutual transfer only where it is also one over *own + pixel CE* and *self*, which have no other
peer to learn from: a head with queries gains from any term that looks at every pixel.
"""

CHOICE = """Learning rates and weights were chosen with seed {seed} on the {rows} tiles of the validation split: of
each list the highest mean mIoU over the peers that took part. Each peer's learning rate is the one that is best for
its control, and all arms keep it; *mutual, not held* and *mutual, two* keep the weight of *mutual*. Steps were not
varied. The test split chose nothing. The lists were widened once, and *mutual, not held* was added, after scores on
the validation split were seen and before any on the test split were. Where the chosen value is the first or the last
of its list, one beyond it may be better.
"""

SPECIALISTS = """{west} was pretrained west of {border:g}° E alone, {east} east of it. In a cohort of the two, above:
every training tile, in the colour of the peer that taught it most often in {seeds} seeds of {epochs} epochs (tiles
overlap, their middles are drawn). Below: every test tile, in the colour of the peer with the lower loss there before
any transfer.

![World maps of who teaches where](land_cover_teachers.png)
"""

CREDITS = """Images: NASA Blue Marble, by NASA's Earth Observatory. Truth: MODIS land cover MCD12C1 version 006 of
2019, IGBP classes, Friedl and Sulla-Menashe, NASA LP DAAC, [doi
10.5067/MODIS/MCD12C1.006](https://doi.org/10.5067/MODIS/MCD12C1.006). How tiles are cut and split, and how the peers
were pretrained: recipes/embedded_segmentation/README.md.
"""


@dataclass(frozen=True)
class Place:
    """A tile on the map: its centre in degrees, and how often each peer taught it."""

    lon: float
    lat: float
    taught: Mapping[str, int]

    @property
    def teacher(self) -> str | None:
        """Who taught most; nobody where that is shared."""
        most = max(self.taught.values(), default=0)
        first = [peer for peer, count in self.taught.items() if count == most]
        return first[0] if len(first) == 1 else None


@dataclass
class Benchmark:
    """Everything that was found.

    Args:
        scores (`dict`): arm to peer to one [`Scores`] per seed; `"start"` has one for all.
        tried (`list[tuple[str, float, bool]]`): per setting its name, mIoU on the validation split, and whether it was
            chosen.
        taught (`dict`): each peer's share of the training tiles in `"mutual"`, one per seed.
        places (`dict`): `"train"` and `"test"`, the specialists' tiles.
        specialists (`tuple[str, str]`): the peer that knows the west and the one that knows the east.
        facts (`dict`): `command`, `machine`, `seeds`, `seconds`, `steps`, `batch`, `epochs`, `border` (degrees east),
            `teacher`, `rows` (per split), `versions`.
    """

    scores: Mapping[str, Mapping[str, Sequence[Scores]]]
    tried: Sequence[tuple[str, float, bool]]
    taught: Mapping[str, Sequence[float]]
    places: Mapping[str, Sequence[Place]]
    specialists: tuple[str, str]
    facts: dict[str, Any]

    @property
    def peers(self) -> list[str]:
        """All that took part."""
        return list(self.scores["control"])

    def values(self, arm: str, peer: str, metric: str = "mIoU") -> list[float]:
        """On the test split, per seed; empty where the arm was not run for this peer."""
        return [one["test"][metric] for one in self.scores[arm].get(peer, [])]

    def delta(self, arm: str, other: str, peer: str, metric: str = "mIoU") -> Difference | None:
        """Mean and sd of the paired differences; `None` where one of the arms is missing."""
        pairs = list(zip(self.values(arm, peer, metric), self.values(other, peer, metric), strict=False))
        if not pairs:
            return None
        gains = [here - there for here, there in pairs]
        return Difference(statistics.fmean(gains), statistics.stdev(gains) if len(gains) > 1 else None)


def spread(values: Sequence[float]) -> str:
    """`21.3 ± 0.4`, in percent; no sd of one value or of equal ones (the start), a dash for none."""
    if not values:
        return "–"
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return percent(statistics.fmean(values)) + (f" ± {percent(sd)}" if sd else "")


def difference(delta: Difference, seeds: int) -> str:
    """`+0.79 ± 0.04` in points, bold where it is more than noise."""
    sd = "" if delta.sd is None else f" ± {100 * delta.sd:.2f}"
    text = f"{percent(delta.mean, sign=True)}{sd}"
    return f"**{text}**" if verdict(delta, seeds) in ("better", "worse") else text


def findings(found: Benchmark, metric: str = "mIoU") -> list[str]:
    """What *mutual* did for every peer, a sentence each."""
    words = {"better": "better than", "worse": "worse than", "within noise": "not told apart from"}
    seeds = len(found.facts["seeds"])
    sentences = []
    for peer in found.peers:
        deltas = {other: found.delta("mutual", other, peer, metric) for other in ("control", "pixel", "self", "fixed")}
        parts = [
            f"{words.get(verdict(delta, seeds), 'against')} {ARMS[other][0]} ({difference(delta, seeds)})"
            for other, delta in deltas.items()
            if delta is not None
        ]
        sentences.append(f"- **{peer}**: *mutual* is {', '.join(parts)}.")
    return sentences


def score_rows(found: Benchmark, metric: str = "mIoU") -> list[list[str]]:
    """A row per peer, a column per arm."""
    return [[peer, *(spread(found.values(arm, peer, metric)) for arm in ARMS)] for peer in found.peers]


def difference_rows(found: Benchmark) -> list[list[str]]:
    """A row per peer and comparison that was possible, a column per metric."""
    rows = []
    for peer in found.peers:
        for arm, other in COMPARISONS:
            deltas = [found.delta(arm, other, peer, metric) for metric in METRICS]
            seeds = len(found.facts["seeds"])
            cells = [difference(delta, seeds) for delta in deltas if delta is not None]
            if cells:
                rows.append([peer, f"{ARMS[arm][0]} − {ARMS[other][0]}", *cells])
    return rows


def teacher_rows(found: Benchmark) -> list[list[str]]:
    """A row per map and side of the border: how many tiles, and which share of them each peer taught."""
    border = found.facts["border"]
    rows = []
    for split, title in (("train", "taught, training tiles"), ("test", "better at the start, test tiles")):
        for side, inside in (("west", True), ("east", False)):
            teachers = [one.teacher for one in found.places[split] if (one.lon < border) is inside]
            shares = [teachers.count(peer) / max(len(teachers), 1) for peer in (*found.specialists, None)]
            rows.append([title, side, str(len(teachers)), *(percent(share) for share in shares)])
    return rows


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Markdown; the first `words` columns are text, the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(columns) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows)) + "\n"


def benchmark_table(found: Benchmark) -> str:
    """The mIoU of all arms and what is gained by them, for the terminal."""
    columns = ["peer", *(short for short, _ in ARMS.values())]
    gains = render(["peer", "Δ", *METRICS], difference_rows(found), title="Differences, in points")
    return f"{render(columns, score_rows(found), title='mIoU on the test split, %')}\n\n{gains}"


def markdown(found: Benchmark) -> str:
    """The whole page."""
    facts, rows = found.facts, found.facts["rows"]
    seeds = len(facts["seeds"])
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    names = {"teacher": facts["teacher"]}
    differences = difference_rows(found)
    west, east = found.specialists
    every = [
        [peer, short, *(spread(found.values(arm, peer, metric)) for metric in METRICS)]
        for peer in found.peers
        for arm, (short, _) in ARMS.items()
        if found.values(arm, peer)
    ]
    shares = ", ".join(f"{peer} {percent(statistics.fmean(found.taught[peer]))} %" for peer in found.peers)
    parts = [
        "# Land cover from space: do segmenters of different heads teach each other?\n",
        f"Made by `{facts['command']}` (seeds {', '.join(map(str, facts['seeds']))}; {facts['machine']}; {versions}). "
        f"Tiles of 64×64 pixels: {rows['train']} to learn from, {rows['validation']} to choose with, {rows['test']} "
        "to report.\n",
        READING.format(tiles=rows["test"], steps=facts["steps"], batch=facts["batch"]),
        *(f"- **{short}**: {meaning.format(**names)}." for short, meaning in ARMS.values()),
        "\n![mIoU of every peer in every arm](land_cover.png)\n",
        "## mIoU\n",
        table(["peer", *(short for short, _ in ARMS.values())], score_rows(found)),
        "By mIoU, in points:\n",
        *findings(found),
        f"\nIn *mutual* the training tiles were taught by: {shares}.\n",
        "## Differences\n",
        CAUTION.format(count=len(differences), seeds=seeds),
        table(["peer", "Δ", *METRICS], differences, words=2),
        "## All metrics\n",
        table(["peer", "arm", *METRICS], every, words=2),
        "## Specialists: who teaches where\n",
        SPECIALISTS.format(west=west, east=east, border=facts["border"], seeds=seeds, epochs=facts["epochs"]),
        table(["tiles", "side", "number", f"{west} %", f"{east} %", "shared %"], teacher_rows(found), words=2),
        "## What was chosen\n",
        CHOICE.format(seed=facts["seeds"][0], rows=rows["validation"]),
        table(
            ["setting", "mIoU, validation", "chosen"],
            [[name, percent(value), "yes" if chosen else ""] for name, value, chosen in found.tried],
        ),
        "## Credits\n",
        CREDITS,
    ]
    return "\n".join(parts)


def draw(found: Benchmark) -> bytes:
    """One panel per peer: mIoU of every arm on the test split, each seed a dot; PNG."""

    def paint(figure: Any) -> None:
        panels = figure.subplots(1, len(found.peers), sharey=True, squeeze=False)[0]
        for panel, peer in zip(panels, found.peers, strict=True):
            draw_peer(panel, found, peer)
            panel.set_title(peer, loc="left", fontweight="bold", fontsize=10)
        panels[0].set_ylabel("mIoU on the test split, %", fontsize=9)

    return png(paint, width=3.4 * len(found.peers), height=3.6)


def draw_peer(panel: Any, found: Benchmark, peer: str) -> None:
    """The arms of one peer, a line at its control."""
    arms = [arm for arm in ARMS if found.values(arm, peer)]
    panel.axhline(100 * statistics.fmean(found.values("control", peer)), color="0.75", linewidth=0.8, zorder=0)
    for place, arm in enumerate(arms):
        values = [100 * value for value in found.values(arm, peer)]
        color = COLORS[0] if arm in ("mutual", "bare", "pair") else "0.45"
        panel.hlines(statistics.fmean(values), place - 0.3, place + 0.3, color=color, linewidth=2.5)
        panel.plot([place] * len(values), values, "o", color=color, markersize=4, alpha=0.7)
    panel.set_xticks(range(len(arms)), [ARMS[arm][0] for arm in arms], rotation=40, ha="right", fontsize=8)
    panel.set_xlim(-0.6, len(arms) - 0.4)
    panel.tick_params(axis="y", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def draw_map(found: Benchmark, sides: Mapping[str, float], land: np.ndarray | None = None) -> bytes:
    """Two world maps, training tiles above and test tiles below, in the colours of who teaches; PNG.

    Args:
        found ([`Benchmark`]): of which `places`.
        sides (`dict[str, float]`): side of a square in degrees, for `"train"` and `"test"`.
        land (`np.ndarray` `[rows, columns]` bool, *optional*): the world from 180 W and 90 N on, drawn in grey.
    """
    colors = dict(zip((*found.specialists, None), (*COLORS[:2], NOBODY_COLOR), strict=True))

    def paint(figure: Any) -> None:
        titles = {"train": "taught most often, training tiles", "test": "lower loss before transfer, test tiles"}
        for panel, (split, title) in zip(figure.subplots(2, 1), titles.items(), strict=True):
            if land is not None:
                panel.imshow(land, extent=(-180, 180, -90, 90), cmap=ListedColormap(["white", LAND_COLOR]))
            draw_places(panel, found.places[split], sides[split], colors)
            draw_border(panel, found)
            panel.set_title(title, loc="left", fontsize=10)
        handles = [Patch(color=color, label=peer or "shared") for peer, color in colors.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)

    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    return png(paint, width=9.0, height=7.9)


def draw_places(panel: Any, places: Sequence[Place], side: float, colors: Mapping[str | None, str]) -> None:
    """A square for every tile."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    squares = [Rectangle((one.lon - side / 2, one.lat - side / 2), side, side) for one in places]
    panel.add_collection(
        PatchCollection(
            squares, facecolors=[colors[one.teacher] for one in places], edgecolors="white", linewidths=0.3
        )
    )


def draw_border(panel: Any, found: Benchmark) -> None:
    """The meridian between west and east, and who knows which side."""
    border = found.facts["border"]
    panel.axvline(border, color="black", linewidth=1)
    west, east = found.specialists
    words = {"fontsize": 8, "va": "bottom"}
    panel.text(border - 2, LATITUDES[0] + 1, f"{west} was pretrained here", ha="right", **words)
    panel.text(border + 2, LATITUDES[0] + 1, f"{east} was pretrained here", ha="left", **words)
    panel.set(xlim=(-180, 180), ylim=LATITUDES, aspect="equal")
    panel.set_xticks([-120, -60, 0, border, 60, 120], ["120° W", "60° W", "0°", f"{border:g}° E", "60° E", "120° E"])
    panel.set_yticks([-30, 0, 30, 60], ["30° S", "0°", "30° N", "60° N"])
    panel.tick_params(labelsize=8)
