"""A few segmented images as one figure: what every peer saw before and after, and who can teach where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.collator import SAMPLE_ID
from ...data.images import decode_image
from ...data.masks import IGNORE, UNREADABLE
from ...distillation.roles import NOBODY, assign_roles
from ...reports.figures import png
from ...reports.text import one_line
from .outputs import dense_log_probs

PALETTE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#4b0000",
    "#000096",
    "#962d00",
    "#693c69",
    "#a53cff",
    "#001ed2",
    "#2d0f4b",
    "#b4c396",
    "#875a69",
    "#4b2d3c",
    "#691e00",
    "#b4ffa5",
    "#69d2ff",
)
"""Okabe and Ito's colours, then one by one the sRGB colour that is farthest from those before (in OKLab, for normal,
protan, deutan and tritan eyes after Machado et al. 2009): no two are closer than the closest of Okabe and Ito's."""

OTHER, NONE = "#9a9a9a", "#dedede"
"""Of the rarest classes, where there are more than colours; of pixels that do not count."""

CHUNK = 64
"""Rows of a map that are worked on at once: all classes of a large image would fill the memory."""

CELL = 1.55
"""Width of an image in the figure, inches."""


@dataclass(frozen=True)
class Example:
    """One image of `H x W` pixels with what N peers made of it.

    Args:
        name (`str`): stands beside it.
        image (`[H, W, 3]`, uint8): RGB.
        truth (`[H, W]`, integer): class ids, below 0 where a pixel does not count.
        before, after (`[N, H, W]`, integer): each peer's class ids.
        teacher (`[H, W]`, integer): index of the peer that can teach; below 0 at a tie and where no truth counts.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    before: np.ndarray
    after: np.ndarray
    teacher: np.ndarray


def read_examples(before: Any, after: Any, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    """
    Segment rows with the peers as they started and as they ended.

    Args:
        before ([`Cohort`]): of semantic segmentation.
        after ([`Cohort`]): the same peers in the same order.
        rows (`list[dict]`): `image`, `label` and `sample_id`.

    Returns:
        `list[Example]`: without rows that cannot be read. Who can teach is who gave the truth the highest probability
        `before`.
    """
    collator = before.task.collator_class(before.processors, on_bad_row="skip", keep_places=True)
    found = []
    for row in rows:
        batch = collator([row])
        truth = batch["labels"][0]
        if bool((truth == UNREADABLE).all()):
            continue
        truth = truth.masked_fill((truth < 0) | (truth == IGNORE), -1)
        started, ended = (answers_of(cohort, batch) for cohort in (before, after))
        found.append(
            Example(
                name=f"sample {row[SAMPLE_ID]}",
                image=np.asarray(decode_image(row["image"])),
                truth=truth.numpy(),
                before=maps_of(started, truth),
                after=maps_of(ended, truth),
                teacher=who_can_teach(started, truth).numpy(),
            )
        )
    return found


@torch.no_grad()
def answers_of(cohort: Any, batch: Mapping[str, Any]) -> list[Any]:
    """Each peer's [`DenseOutput`] to a batch."""
    return list(cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values())


def maps_of(outputs: Sequence[Any], truth: Tensor) -> np.ndarray:
    """`[N, H, W]`: the class that each of N peers sees at every pixel of the one image, at the size of its truth."""
    return np.stack([output.semantic_maps([tuple(truth.shape)])[0].numpy() for output in outputs])


@torch.no_grad()
def who_can_teach(outputs: Sequence[Any], truth: Tensor) -> Tensor:
    """
    The peer that gives the truth the highest probability, pixel by pixel.

    Args:
        outputs (N outputs to a batch of one image): with `outputs`, `kind`, `padded` and `valid` as
            [`dense_log_probs`] takes them.
        truth (`torch.Tensor` `[H, W]`): class ids, below 0 where a pixel does not count.

    Returns:
        `torch.Tensor` `[H, W]`, int64: a peer's index; `NOBODY` at a tie and where no truth counts.
    """
    rows = [_teachers_of_rows(outputs, truth, chunk) for chunk in _chunks(len(truth))]
    return torch.cat(rows).masked_fill(truth < 0, NOBODY)


def _teachers_of_rows(outputs: Sequence[Any], truth: Tensor, rows: tuple[int, int]) -> Tensor:
    wanted = truth[rows[0] : rows[1]].clamp_min(0)[None, None]
    size = (truth.shape[0], truth.shape[1])
    scores = [
        dense_log_probs(
            output.outputs, size, kind=output.kind, padded=output.padded, valid=output.valid, rows=rows
        ).gather(1, wanted)[0, 0]
        for output in outputs
    ]
    return assign_roles(torch.stack(scores))


def _chunks(height: int) -> Iterator[tuple[int, int]]:
    for first in range(0, height, CHUNK):
        yield first, min(first + CHUNK, height)


def examples_figure(examples: Sequence[Example], peers: Sequence[str], classes: Sequence[str]) -> bytes:
    """
    A row per image: the image, its truth, each peer before and after, and who can teach where.

    Args:
        examples (`list[Example]`): one or more.
        peers (`list[str]`): names of the N peers.
        classes (`list[str]`): names of the classes.

    Returns:
        `bytes`: PNG, the same for the same arrays. Only classes that occur are in the legend; where there are more
        classes than colours, the rarest share a grey.
    """
    colors, who = class_colors(examples, len(classes)), peer_colors(len(peers))
    phases = [f"{peer}\n{phase}" for peer in peers for phase in ("before", "after")]
    heads = ["image", "truth", *phases, "who can\nteach"]

    def draw(figure: Any) -> None:
        rows = {"height_ratios": heights}
        grid = figure.subplots(len(examples), len(heads), squeeze=False, gridspec_kw=rows)
        for axes, example in zip(grid, examples, strict=True):
            maps = [plane for both in zip(example.before, example.after, strict=True) for plane in both]
            cells = [
                example.image,
                *(painted(plane, colors) for plane in (example.truth, *maps)),
                painted(example.teacher, who),
            ]
            for place, cell in zip(axes, cells, strict=True):
                place.imshow(cell, interpolation="nearest" if cell is not example.image else "antialiased")
                place.set(xticks=[], yticks=[])
                place.spines[:].set_visible(False)
            axes[0].set_ylabel(example.name, fontsize=8)
        for place, head in zip(grid[0], heads, strict=True):
            place.set_title(head, fontsize=8)
        # matplotlib leaves labels out that begin with "_".
        handles = [Patch(color=color, label=f" {label}" if label[:1] == "_" else label) for label, color in named]
        legend = figure.legend(handles=handles, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)

    from matplotlib.patches import Patch

    named = legend_entries(examples, peers, classes, colors, who)
    width = CELL * len(heads)
    columns = max(1, int(width / (0.5 + 0.075 * max(len(label) for label, _ in named))))
    heights = [example.truth.shape[0] / example.truth.shape[1] for example in examples]
    return png(draw, width, height=CELL * sum(heights) + 0.55 + 0.2 * math.ceil(len(named) / columns))


def legend_entries(
    examples: Sequence[Example],
    peers: Sequence[str],
    classes: Sequence[str],
    colors: Mapping[int, str],
    who: Mapping[int, str],
) -> list[tuple[str, str]]:
    """`(label, colour)` of the classes that occur, of what is grey, and of the peers."""
    entries = [(one_line(classes[index], 40), colors[index]) for index in sorted(colors) if colors[index] != OTHER]
    if OTHER in colors.values():
        entries.append(("other classes", OTHER))
    if any((example.truth < 0).any() for example in examples):
        entries.append(("not counted", NONE))
    return entries + [(f"can teach: {peer}", who[index]) for index, peer in enumerate(peers)]


def peer_colors(peers: int) -> dict[int, str]:
    """Colours that differ in lightness and are none of the classes'."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return {index: to_hex(color) for index, color in enumerate(colormaps["viridis"](np.linspace(0.08, 0.95, peers)))}


def class_colors(examples: Sequence[Example], classes: int) -> dict[int, str]:
    """The colour of every class that occurs: its own by its id, or by how frequent it is where ids are too many."""
    planes = [plane for example in examples for plane in (example.truth[None], example.before, example.after)]
    counts = np.sum([np.bincount(plane[plane >= 0].ravel(), minlength=classes) for plane in planes], axis=0)
    occurring = np.flatnonzero(counts).tolist()
    if classes <= len(PALETTE):
        return {index: PALETTE[index] for index in occurring}
    ranked = sorted(occurring, key=lambda index: (-counts[index], index))
    return {index: PALETTE[place] if place < len(PALETTE) else OTHER for place, index in enumerate(ranked)}


def painted(plane: np.ndarray, colors: Mapping[int, str]) -> np.ndarray:
    """A map of ids `[H, W]` as uint8 RGB `[H, W, 3]`; ids without a colour, such as -1, in `NONE`."""
    shown = np.empty((*plane.shape, 3), np.uint8)
    shown[:] = _rgb(NONE)
    for index, color in colors.items():
        shown[plane == index] = _rgb(color)
    return shown


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))
