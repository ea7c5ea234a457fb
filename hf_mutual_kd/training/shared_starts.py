"""What frozen starts say of rows, kept for other trainings that begin with the same weights and show the same rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import whole
from ..peers.weights_hash import fingerprint
from .start_cache import StartCache, cached_starts, may_cache

MOST = 8 * 1024**3
"""Bytes that the starts of a suite or of a run's seeds may take on disk; what comes after is not kept."""


@contextlib.contextmanager
def shared_among(trainings: int) -> Iterator[Path | None]:
    """Within the block a folder for what so many trainings share; none for one."""
    if trainings == 1:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def shared_or_new(trainer: Any) -> StartCache | None:
    """As [`cached_starts`], from [`place_of`] where an earlier training has left it there; else it is left there.

    `None` where nothing is kept; for errors see [`cached_starts`].
    """
    if not may_cache(trainer):
        return None
    cohort, place = trainer.cohort, place_of(trainer)
    if place is not None and place.is_file():
        found = StartCache.load(place, cohort.task.map_dims)
        cohort.drop_starts()
        return found
    made = cached_starts(trainer)
    if made is not None and place is not None:
        _keep(made, place)
    return made


def place_of(trainer: Any) -> Path | None:
    """
    The file in which what a trainer's starts say is or would be; `None` where it is not shared.

    It is shared by trainings of one process each whose images no view changes; the name is a hash of all that decides
    the numbers: the starts' weights, processors and classes, the rows, precision and size of batches.

    Args:
        trainer ([`MutualKDTrainer`]): with its starts.
    """
    folder, cohort, args = trainer.shared_starts, trainer.cohort, trainer.args
    drawn = getattr(trainer.train_dataset, "is_drawn", False)
    if folder is None or args.world_size > 1 or trainer.view is not None or drawn or cohort.starts is None:
        return None
    made = trainer._made_with()
    decides = {
        "weights": {name: fingerprint(start) for name, start in cohort.starts.items()},
        "processors": made["processors"],
        "classes": [cohort.label_names, cohort.label_columns],
        "task": [cohort.task.name, cohort.task.grid],
        "rows": made["data"],
        "precision": [trainer.accelerator.mixed_precision, args.device.type, args.per_device_eval_batch_size],
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.safetensors"


def _keep(cache: StartCache, place: Path) -> None:
    """Write what starts say to its [`place_of`], whole, where there is room."""
    taken = sum(file.stat().st_size for file in place.parent.glob("*.safetensors"))
    if taken + cache.nbytes > MOST:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with whole(place) as beside:
        cache.save(beside)
