"""What every peer says of every row of a data set, gathered for `predict` and for metrics of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.images import UNREADABLE


class GatheredLogits:
    """
    Collects the peers' logits and the labels, batch by batch; memory grows with rows x peers x classes.

    Args:
        peer_names (`list[str]`): in the order of the logits.

    Example:

    ```python
    >>> gathered = GatheredLogits(["a", "b"])
    >>> gathered.add(torch.zeros(4, 2, 3), torch.tensor([0, 1, -1, 2]))
    >>> {name: part.shape for name, part in gathered.logits().items()}
    {'a': (4, 3), 'b': (4, 3), 'ensemble': (4, 3)}
    ```
    """

    def __init__(self, peer_names: Sequence[str]):
        self.peer_names = list(peer_names)
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in one batch: `[B, N, C]` and `[B]`."""
        unreadable = (labels == UNREADABLE).view(-1, 1, 1)
        self._logits.append(logits.masked_fill(unreadable, float("nan")).cpu())
        self._labels.append(labels.cpu())

    def logits(self) -> dict[str, np.ndarray]:
        """Of every peer `[rows, C]` in fp32; of the `"ensemble"` the logarithm of the peers' mean probability."""
        joined = torch.cat(self._logits)
        ensemble = joined.softmax(-1).nanmean(1).log()
        peers = {name: joined[:, index].numpy() for index, name in enumerate(self.peer_names)}
        return peers | {"ensemble": ensemble.numpy()}

    def labels(self) -> np.ndarray:
        """`[rows]`, negative for none."""
        return torch.cat(self._labels).numpy()
