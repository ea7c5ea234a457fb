"""The scout's picture: what each candidate would add, and in which classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...reports.figures import LIGHT, png

MOST_CANDIDATES, MOST_CLASSES = 25, 20


def scout_figure(
    candidates: Mapping[str, Mapping[str, Any]], label_names: Sequence[str], chosen: Sequence[str]
) -> bytes:
    """Left, ensemble minus my model with its interval; right, positive flips by class, darkest where most.

    Args:
        candidates (`dict`): as in `scout.json`, best first; the first 25 are shown.
        label_names (`list[str]`): C; the 20 classes with most positive flips are shown, in their order.
        chosen (`list[str]`): the proposed partners, told apart by colour and a star.
    """
    names = list(candidates)[:MOST_CANDIDATES]
    flips = np.array(
        [[np.nan if one is None else 100 * one for one in candidates[name]["by_class"]] for name in names]
    )
    shown = np.sort(np.argsort(-np.nan_to_num(flips).max(axis=0), kind="stable")[:MOST_CLASSES])

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
        left.axvline(0, color=LIGHT.soft, linewidth=0.8)
        for row, name in enumerate(names):
            lift = candidates[name]["lift"]
            low, value, high = (100 * lift[key] for key in ("low", "value", "high"))
            color = LIGHT.control if name in chosen else LIGHT.mutual
            left.plot([low, high], [row, row], color=color, linewidth=1.4)
            left.scatter(
                [value], [row], color=color, marker="*" if name in chosen else "o", s=70 if name in chosen else 24
            )
        left.set_yticks(
            range(len(names)), [name if len(name) <= 34 else f"{name[:33]}…" for name in names], fontsize=8
        )
        left.set_ylim(len(names) - 0.5, -0.5)
        left.set_xlabel("ensemble minus mine, points")
        left.set_title("What it would add (95 %; ★ proposed)", fontsize=9)
        left.grid(axis="x", color=LIGHT.grid, linewidth=0.6)
        left.set_axisbelow(True)
        left.spines[["top", "right", "left"]].set_visible(False)
        image = right.imshow(flips[:, shown], aspect="auto", cmap="Blues", vmin=0)
        right.set_xticks(
            range(len(shown)), [label_names[index][:18] for index in shown], rotation=50, ha="right", fontsize=8
        )
        right.tick_params(length=0)
        right.set_title("Samples that it has right and mine has not, % of each class", fontsize=9)
        if len(names) * len(shown) <= 200:
            dark = np.nanmax(flips[:, shown], initial=1e-9) / 2
            for row, column in np.ndindex(len(names), len(shown)):
                value = flips[row, shown[column]]
                if np.isfinite(value):
                    color = "white" if value > dark else "black"
                    right.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
        figure.colorbar(image, ax=right, pad=0.01)

    return png(draw, width=11.5, height=1.9 + 0.36 * len(names))
