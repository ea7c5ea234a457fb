"""The part of recorded samples that classifiers have: what every peer took each for, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .samples import SAMPLE, Samples


@dataclass
class PeerOutputs:
    """What N peers said of R samples at one time.

    Args:
        guess (`[R, N]`, int32): the predicted class; -1 for a peer whose output was not finite.
        probability (`[R, N]`, float32): of the predicted class, 0 to 1.
        truth (`[R, N]`, float32): probability of the true class; NaN where a sample has no label.
    """

    guess: np.ndarray
    probability: np.ndarray
    truth: np.ndarray


def single_outputs(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    What is recorded of a batch of readable samples.

    Args:
        batch (`dict[str, np.ndarray]`): `sample_ids` `[B]`, `labels` `[B]` (below 0: none), `top5` `[B, N, K]`
            (classes, best first), `confidence` `[B, N]` (probability of the first), `loss` `[B, N]` (cross-entropy
            of the truth in nats).
    """
    labels = batch["labels"]
    truth = np.where(labels[:, None] >= 0, np.exp(-batch["loss"]), np.nan)
    return {
        "id": batch["sample_ids"].astype(np.int64),
        "label": labels.astype(np.int32),
        "guess": batch["top5"][:, :, 0].astype(np.int32),
        "probability": batch["confidence"].astype(np.float32),
        "truth": truth.astype(np.float32),
    }


@dataclass
class Predictions:
    """The samples of one arm's test split that were measured before and after.

    Args:
        peers (`list[str]`): the N peers.
        ids (`[R]`, int64): sample ids, rising.
        labels (`[R]`, int32): the truth; below 0 where there is none.
        start, after ([`PeerOutputs`]): of the peers as they started, and with the weights that were kept.
    """

    peers: list[str]
    ids: np.ndarray
    labels: np.ndarray
    start: PeerOutputs
    after: PeerOutputs

    def __len__(self) -> int:
        return len(self.ids)

    def phase(self, name: str) -> PeerOutputs:
        """`"start"` or `"after"`."""
        return self.start if name == "start" else self.after

    def right(self, phase: str) -> np.ndarray:
        """Whether each peer was right: bool `[R, N]`."""
        return (self.phase(phase).guess == self.labels[:, None]) & (self.labels >= 0)[:, None]

    def flips(self) -> np.ndarray:
        """`[R, N]`: 1 from wrong to right, -1 from right to wrong, 0 otherwise."""
        return self.right("after").astype(np.int8) - self.right("start").astype(np.int8)


def predictions_of(samples: Samples) -> Predictions | None:
    """What classifiers recorded, `None` for another task's samples."""
    columns = ("guess", "probability", "truth")
    if f"{SAMPLE}guess" not in samples.start:
        return None
    start, after = (
        PeerOutputs(*(phase[f"{SAMPLE}{name}"] for name in columns)) for phase in (samples.start, samples.after)
    )
    return Predictions(samples.peers, samples.ids, samples.start[f"{SAMPLE}label"], start, after)
