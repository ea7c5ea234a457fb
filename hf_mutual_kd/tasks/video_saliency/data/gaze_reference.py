"""What predictions are compared with: where people look in the training videos, whatever is to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ....errors import DataError
from ..metrics.maps import resize_map
from .truth import SaliencyVideo

PRIOR_GRID = (45, 80)
MOST_FRAMES = 2000
"""Training frames that are looked at, spread evenly over the videos."""


class GazeReference:
    """
    The centre prior and the pool of the shuffled AUC, both of the training videos.

    Args:
        videos (`list[SaliencyVideo]`): for training; every k-th frame is looked at, [`MOST_FRAMES`] at most;
            what cannot be read is passed over, as the collator stops at it or counts it.

    Attributes:
        prior (`np.ndarray`): float64 `PRIOR_GRID`, the mean density; sums to 1.
        places (`np.ndarray`): float64 `[K, 2]`: fixations inside their frames as shares of height and width.
    """

    def __init__(self, videos: Sequence[SaliencyVideo]):
        step = math.ceil(sum(video.length for video in videos) / MOST_FRAMES)
        total, places = np.zeros(PRIOR_GRID), [np.zeros((0, 2))]
        for video in videos:
            for frame in range(min(step // 2, video.length - 1), video.length, step):
                if video.truth is None:
                    continue
                try:
                    density, points = video.truth.density(frame), video.truth.points(frame)
                except DataError:
                    continue
                total += _coarse(density)
                place = (points + 0.5) / density.shape
                places.append(place[((place >= 0) & (place < 1)).all(1)])
        self.prior = total / max(total.sum(), np.finfo(float).tiny)
        self.places = np.concatenate(places)
        self._pools: dict[tuple[int, int], np.ndarray] = {}

    def prior_at(self, size: tuple[int, int]) -> np.ndarray:
        """The centre prior as a map `[H, W]`."""
        return resize_map(self.prior, size)

    def pool_at(self, size: tuple[int, int]) -> np.ndarray:
        """How often each pixel of `[H, W]` was fixated in training; the last size's is kept."""
        if size not in self._pools:
            pool = np.zeros(size, np.int64)
            rows, columns = (self.places * size).astype(int).clip(0, np.array(size) - 1).T
            np.add.at(pool, (rows, columns), 1)
            self._pools = {size: pool}
        return self._pools[size]


def _coarse(density: np.ndarray) -> np.ndarray:
    found = F.interpolate(torch.from_numpy(density)[None, None], PRIOR_GRID, mode="bilinear", antialias=True)
    total = float(found.sum())
    return found[0, 0].double().numpy() / total if total > 0 else np.zeros(PRIOR_GRID)
