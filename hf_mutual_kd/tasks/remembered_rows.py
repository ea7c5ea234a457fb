"""What an evaluation remembers of single samples, for the next one to compare with."""

from __future__ import annotations

import numpy as np


class RememberedRows:
    """Arrays of single samples, such as whether each peer was right (`8 + N` bytes a sample), by sample id."""

    def __init__(self):
        self.ids: list[np.ndarray] = []
        self.right: list[np.ndarray] = []
        self.is_sorted = False

    def add(self, ids: np.ndarray, right: np.ndarray) -> None:
        """Remember `right` `[B, N, ...]` under `ids` `[B]`."""
        self.ids.append(ids)
        self.right.append(right)
        self.is_sorted = False

    def __len__(self) -> int:
        return sum(map(len, self.ids))

    def lookup(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the `ids` that are known, and what was remembered of them."""
        if not self.ids:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=bool)
        sorted_ids, right = self.sorted()
        places = np.searchsorted(sorted_ids, ids).clip(max=len(sorted_ids) - 1)
        known = np.flatnonzero(sorted_ids[places] == ids)
        return known, right[places[known]]

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids, rising, and what was remembered of them."""
        if not self.ids:
            return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=bool)
        if not self.is_sorted:
            order = np.argsort(merged := np.concatenate(self.ids), kind="stable")
            self.ids, self.right = [merged[order]], [np.concatenate(self.right)[order]]
            self.is_sorted = True
        return self.ids[0], self.right[0]
