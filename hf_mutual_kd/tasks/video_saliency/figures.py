"""A few frames as one figure: where people looked, and where every peer said so before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...reports.figures import png
from .data.truth_batches import DENSITY, has_density, is_readable, split_truths
from .metrics.functions import cc
from .model.losses import resample_log_density

CELL = 1.55
"""Width of a frame in the figure, inches."""

DIMMED = 0.55
"""How much of a frame stays to be seen where nobody looks."""


@dataclass(frozen=True)
class Example:
    """One frame with what N peers made of its clip.

    Args:
        name (`str`): stands beside it.
        frame (`[H, W, 3]`, uint8): the target frame, RGB.
        truth (`[h, w]`): density of where people looked.
        before, after (`[N, h, w]`): each peer's density.
    """

    name: str
    frame: np.ndarray
    truth: np.ndarray
    before: np.ndarray
    after: np.ndarray


def read_examples(before: Any, after: Any, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    """
    Predict for rows with the peers as they started and as they ended.

    Args:
        before ([`Cohort`]): of video saliency.
        after ([`Cohort`]): the same peers in the same order.
        rows (`list[dict]`): of [`ClipRows`].

    Returns:
        `list[Example]`: without rows that cannot be read or at which nobody looked.
    """
    collator = before.task.collator_class(before.processors, on_bad_row="skip", keep_places=True)
    found = []
    for row in rows:
        batch = collator([row])
        if not bool((is_readable(batch["labels"]) & has_density(batch["labels"])).all()):
            continue
        truth = split_truths(batch["labels"])[0][DENSITY].numpy()
        with row["source"].open() as video:
            frame = video.frames([row["frame"]])[0]
        maps = [densities(cohort, batch, truth.shape) for cohort in (before, after)]
        found.append(Example(f"{row['video']}\nframe {row['frame']}", frame, truth, *maps))
    return found


@torch.no_grad()
def densities(cohort: Any, batch: Mapping[str, Any], size: Sequence[int]) -> np.ndarray:
    """Each peer's density `[N, H, W]` for a batch of one clip."""
    outputs = cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values()
    return np.stack([resample_log_density(output, size)[0].exp().numpy() for output in outputs])


def examples_figure(examples: Sequence[Example], peers: Sequence[str]) -> bytes:
    """
    A row per frame: the frame, where people looked, each peer before and after with its CC.

    Args:
        examples (`list[Example]`): one or more.
        peers (`list[str]`): names of the N peers.

    Returns:
        `bytes`: PNG, the same for the same arrays.
    """
    phases = [f"{peer}\n{phase}" for peer in peers for phase in ("before", "after")]
    heads = ["frame", "where people\nlooked", *phases]

    def draw(figure: Any) -> None:
        rows = {"height_ratios": heights}
        grid = figure.subplots(len(examples), len(heads), squeeze=False, gridspec_kw=rows)
        for axes, example in zip(grid, examples, strict=True):
            maps = [one for both in zip(example.before, example.after, strict=True) for one in both]
            cells = [example.frame, *(overlay(example.frame, one) for one in (example.truth, *maps))]
            captions = ["", "", *(f"{cc(one, example.truth):.2f}" for one in maps)]
            for place, cell, caption in zip(axes, cells, captions, strict=True):
                place.imshow(cell)
                place.set(xticks=[], yticks=[])
                place.spines[:].set_visible(False)
                place.set_xlabel(caption, fontsize=7, labelpad=1)
            axes[0].set_ylabel(example.name, fontsize=7, parse_math=False)
        for place, head in zip(grid[0], heads, strict=True):
            place.set_title(head, fontsize=8, parse_math=False)

    heights = [example.frame.shape[0] / example.frame.shape[1] for example in examples]
    return png(draw, CELL * len(heads), height=sum(CELL * height + 0.2 for height in heights) + 0.45)


def overlay(frame: np.ndarray, density: np.ndarray) -> np.ndarray:
    """A density `[h, w]` as colours over its grey, dimmed frame `[H, W, 3]`, both uint8 RGB."""
    from matplotlib import colormaps
    from PIL import Image

    height, width = frame.shape[:2]
    relative = density / max(float(density.max()), np.finfo(np.float32).tiny)
    map_of_frame = Image.fromarray(relative.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.asarray(map_of_frame)[..., None].clip(0, 1)
    gray = frame.mean(-1, keepdims=True) * DIMMED
    colors = colormaps["inferno"](strength[..., 0])[..., :3] * 255
    cover = np.sqrt(strength)
    return np.rint(gray * (1 - cover) + colors * cover).astype(np.uint8)
