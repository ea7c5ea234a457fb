"""Maps."""

from __future__ import annotations

from ..distillation.roles import Peers

Size = tuple[int, int]
"""Rows and columns of a grid."""


def coarsest_grid(log_probs: Peers) -> Size:
    """The least number of rows and of columns among the peers' `[B, C, h, w]`: where all of them know something."""
    return min(z.shape[-2] for z in log_probs), min(z.shape[-1] for z in log_probs)
