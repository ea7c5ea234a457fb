"""The data of a finished run, found again from its record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..data.splits import Splits
from ..errors import DataError
from .base import Task
from .registry import make_task

DEFAULT_SEED = 42
"""Of `transformers.TrainingArguments`."""
COUNTED = {"rows": "rows", "videos": "videos", "frames": "frames", "skipped_images": "unreadable images"}
"""What tells data sets apart, by the names of their facts, and in words."""


def load_run_splits(record: Mapping[str, Any], dataset: str | None = None, task: Task | None = None) -> Splits:
    """
    Load the splits that a run used, in the same order and without the same unreadable rows.

    Args:
        record (`dict`): `cohort.json`, of which `task`, `recipe` and `dataset` are looked at.
        dataset (`str`, *optional*): where the data set is now; as recorded when unset.
        task ([`Task`], *optional*): the run's, where it is none of [`TASKS`].

    Raises:
        [`DataError`]: it cannot be found, or holds another number of rows or videos than the
            run's.
    """
    recipe = dict(record.get("recipe") or {})
    if dataset is not None:
        recipe["dataset"] = dataset
    if not recipe.get("dataset"):
        raise DataError("there is no record of the data set that was used; give it with --dataset")
    if str(recipe["dataset"]).startswith("~/"):
        recipe["dataset"] = os.path.expanduser(recipe["dataset"])
    task = task or make_task(record["task"])
    known = {item.name for item in fields(task.options_class)}
    task = task.with_options(**{name: value for name, value in recipe.items() if name in known})
    seed = next((recipe[key] for key in ("data_seed", "seed") if recipe.get(key) is not None), DEFAULT_SEED)
    on_bad_row = recipe.get("on_bad_row", "raise")
    splits = task.load_splits(seed, recipe.get("labels", True), on_bad_row)
    task.check_splits(splits, on_bad_row)
    recorded = record.get("dataset") or {}
    for what, words in COUNTED.items():
        ours, theirs = splits.facts.get(what), recorded.get(what)
        if ours and theirs and ours != theirs:
            raise DataError(
                f"{recipe['dataset']} is not the data of this run: its {words} are {ours}; the run's were {theirs}"
            )
    # Of images the fingerprint also depends on where they lie; of videos on names, lengths and cuts.
    if "videos" in splits.facts and recorded.get("fingerprint") not in (None, splits.facts["fingerprint"]):
        raise DataError(f"{recipe['dataset']} is not the data of this run: it holds other videos, lengths or cuts")
    return splits
