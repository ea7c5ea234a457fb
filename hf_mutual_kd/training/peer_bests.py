"""The best evaluation of every peer, on the peer's own metric, and which peers gain no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class PeerBests:
    """Remembers each peer's best value and stops peers that have not improved for `patience` evaluations.

    Args:
        peer_names (`list[str]`): the cohort's peers.
        greater_is_better (`bool`): whether higher values are better.
        patience (`int`, *optional*): evaluations without gain after which a peer rests; never when unset.

    Example:

    ```python
    >>> bests = PeerBests(["a", "b"], greater_is_better=True, patience=1)
    >>> bests.update({"a": 0.5, "b": 0.6}, step=10), bests.update({"a": 0.7, "b": 0.6}, step=20), bests.stopped
    (['a', 'b'], ['a'], ['b'])
    ```
    """

    def __init__(self, peer_names: Sequence[str], greater_is_better: bool, patience: int | None = None):
        self.peer_names = list(peer_names)
        self.greater_is_better = greater_is_better
        self.patience = patience
        self.values: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.waited: dict[str, int] = dict.fromkeys(self.peer_names, 0)
        self.broken: dict[str, int] = {}
        """Peers whose weights are not finite, and the step at which that was found; they are never better."""

    @property
    def found(self) -> list[str]:
        """Peers that have a best."""
        return [name for name in self.peer_names if name in self.values]

    @property
    def stopped(self) -> list[str]:
        """Peers that gain no more."""
        if self.patience is None:
            return []
        return [name for name in self.peer_names if self.waited[name] >= self.patience]

    def update(self, values: Mapping[str, float], step: int) -> list[str]:
        """Take in one evaluation; returns the peers that are better than ever. NaN is never better."""
        resting = {*self.stopped, *self.broken}
        improved = [name for name in self.peer_names if name not in resting and self._is_better(name, values[name])]
        for name in self.peer_names:
            if name in improved:
                self.values[name], self.steps[name], self.waited[name] = values[name], step, 0
            else:
                self.waited[name] += 1
        return improved

    def _is_better(self, name: str, value: float) -> bool:
        if value != value:
            return False
        best = self.values.get(name)
        return best is None or (value > best if self.greater_is_better else value < best)

    def forget(self) -> None:
        """Select nothing: the last weights are to be kept."""
        self.values, self.steps = {}, {}

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {"values": self.values, "steps": self.steps, "waited": self.waited}

    def load(self, state: Mapping[str, Any], broken: Mapping[str, int]) -> None:
        """What [`state`] returned, and `broken`."""
        self.broken = dict(broken)
        self.values, self.steps = dict(state["values"]), dict(state["steps"])
        self.waited = {name: int(state["waited"].get(name, 0)) for name in self.peer_names}
