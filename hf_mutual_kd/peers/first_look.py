"""One real row of every split through every peer, before anything is trained or written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ..data.collator import identified
from ..errors import DataError, MutualKDError, PeerError
from .cohort import Cohort

LOOKED_AT = 20
"""Rows of a split among which one is readable, or the split is left to those that check it."""


def look_at_rows(cohort: Cohort, splits: Mapping[str, Any]) -> None:
    """Have every peer answer for a row of every split, with its loss where the row has a label.

    What is drawn, and whether the peers train, is afterwards as before.

    Args:
        cohort ([`Cohort`]): its peers, not yet wrapped.
        splits (`dict[str, Dataset]`): rows by the name of their split, for messages.

    Raises:
        [`PeerError`]: a processor or a model fails on the row, or answers what is not finite; names peer and split.
    """
    training = cohort.training
    cohort.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            for split, rows in splits.items():
                for name in cohort.peers:
                    _look(cohort, name, split, rows)
    finally:
        cohort.train(training)


def _look(cohort: Cohort, name: str, split: str, rows: Any) -> None:
    try:
        batch = _batch_of_one(cohort, name, rows)
        if batch is None:
            return
        device = next(cohort.peers[name].parameters(), torch.empty(0)).device
        outputs, _ = cohort.outputs_of(name, batch["peer_inputs"].to(device)[name], labels=batch["labels"].to(device))
        logits = cohort.task.logits(outputs)
    except MutualKDError as error:
        raise (
            error if f"{name!r}" in str(error) else PeerError(f"peer {name!r} on a row of {split}: {error}")
        ) from error
    except Exception as error:
        # A processor or configuration that was edited can make a model raise anything.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PeerError(
            f"peer {name!r} cannot work on a row of {split}: {reason}. Its processor and its config.json must fit "
            "each other and the data; give another processor with --peer_processors, or another model"
        ) from error
    if not bool(torch.isfinite(logits).all()):
        raise PeerError(
            f"peer {name!r} answers NaN or infinity for a row of {split}; its processor divides by an image_std of 0, "
            "or its weights are damaged"
        )


def _batch_of_one(cohort: Cohort, name: str, rows: Any) -> dict[str, Any] | None:
    """The first row that can be read, as this peer sees it."""
    collator = cohort.task.collator_class({name: cohort.processors[name]}, on_bad_row="skip")
    collator.label_names = cohort.label_names
    known: Any = identified(rows)
    if isinstance(known, IterableDataset):
        found: Any = itertools.islice(iter(known), LOOKED_AT)
    else:
        found = (known[place] for place in range(min(LOOKED_AT, len(known))))
    for row in found:
        try:
            return collator([row])
        except DataError:
            continue
    return None
