"""The three splits of a run: found, chosen, checked before training, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from ..config.options import RecipeOptions
from ..config.task_options import ClassOptions, MaskOptions, completed
from ..config.values import nearest
from ..errors import DataError, LabelError
from .class_folders import SPLIT_ALIASES, role_of
from .columns import (
    AnyDataset,
    Target,
    check_columns,
    choose_columns,
    features_of,
    find_label_names,
    has_labels,
    unify,
)
from .fingerprint import fingerprint, labels_of
from .images import decode_image, row_id
from .inputs import IMAGES, Inputs, check_inputs
from .label_sets import find_set_names, has_sets, unify_sets
from .labelled_rows import hide_labels, which_labelled
from .mask_columns import check_masks, find_mask_names, has_masks, settle_binary, unify_masks
from .places import check_places
from .sources import Source, open_source

__all__ = ["Splits", "check_inputs", "check_masks", "decode_image", "load_splits", "settle_binary"]

ROLES = ("train", "validation", "test")


@dataclass
class Splits:
    """The data of a run.

    Args:
        train, validation, test (`Dataset` or `IterableDataset`): the columns of the task's [`Inputs`], as an
            `image` (`{"bytes", "path"}`, for [`decode_image`]), and, where the split has labels, `label`: `int64`, -1
            for a row without one, or a mask as it is stored, null for none (for [`read_mask`]).
            Validation selects, test is reported; no row is in two of them.
        label_names (`list[str]`, *optional*): names of the classes, where the data set has them.
        facts (`dict[str, Any]`): for the record, ready for JSON: `name`, `config`, `revision` (commit), `splits`
            (where each comes from, in words), `rows` and `labelled` (counts; `None` for streams), `fingerprint`,
            `fingerprint_of` (what it covers).
    """

    train: AnyDataset
    validation: AnyDataset
    test: AnyDataset
    label_names: list[str] | None
    facts: dict[str, Any] = field(default_factory=dict)


class _Labels(NamedTuple):
    """How the labels of one kind are read, and the options that say how."""

    options: type[RecipeOptions]
    names: Callable[..., list[str] | None]
    unify: Callable[..., AnyDataset]
    are_in: Callable[..., bool]


LABELS = {
    "class": _Labels(ClassOptions, find_label_names, unify, has_labels),
    "classes": _Labels(RecipeOptions, find_set_names, unify_sets, has_sets),
    "mask": _Labels(MaskOptions, find_mask_names, unify_masks, has_masks),
}


def load_splits(
    options: RecipeOptions,
    *,
    seed: int,
    labels: bool = True,
    target: Target = "class",
    inputs: Inputs = IMAGES,
) -> Splits:
    """Find, choose, check and unify the splits of `--dataset`.

    Selection and report never share rows. Without a test split, validation is halved by a permutation of `seed`;
    of a stream, by a hash of each input, which is the same in every worker and process. Without a validation
    split, a tenth of train becomes it, of its labelled rows where not all have a label; without both, a tenth each. A
    test split that nobody asked for and that has no labels, as ImageNet's, counts as none. `max_train_samples` and
    `max_eval_samples` draw rows by `seed` (of a stream: take its first).

    Args:
        options ([`RecipeOptions`]): what `--dataset` and its neighbours say.
        seed (`int`): draws parts and samples; runs that are compared use the same one.
        labels (`bool`, defaults to `True`): `False` lets the label column, or all labels of validation and test, be
            absent (`--labels false`).
        target (`str`, defaults to `"class"`): what the label column holds, see [`Target`].
        inputs ([`Inputs`], *optional*): what the input column holds; images when unset.

    Returns:
        [`Splits`]; inputs and masks are not looked at, see [`check_inputs`] and [`check_masks`].

    Raises:
        [`DataError`]: data set, split or column missing (lists those there are), empty split, two
            roles for one split.
        [`LabelError`]: labels of a wrong type, out of range (names row and value) or all missing.

    Example:
        >>> splits = load_splits(RecipeOptions(dataset="recipes/embedded/fashion_mnist"), seed=0)
        >>> splits.facts["splits"]
        {'train': 'train', 'validation': 'validation', 'test': 'test'}
    """
    kind = LABELS[target]
    options = completed(options, kind.options)
    if isinstance(options, MaskOptions) and options.reduce_labels and options.label_colors:
        raise LabelError("--label_colors names what stands for each class; leave out --reduce_labels")
    source = open_source(options, inputs)
    chosen = _choose(source, options)
    train = chosen["train"]
    held = {name: features_of(source.splits[name], name) for name in chosen.values()}
    options = choose_columns(held[train], train, options, labels=labels, target=target, inputs=inputs)
    _leave_unlabelled_test(chosen, source, options, kind)
    columns = {name: check_columns(held[name], name, options, labels, inputs) for name in chosen.values()}
    names = kind.names(columns, source, options)
    of: dict[str, Any] = {"names": names, "options": options, "inputs": inputs}
    ready = {
        name: check_places(kind.unify(source.splits[name], name, features, **of), name, source.places)
        for name, features in columns.items()
    }
    splits, origin = _part(chosen, ready, seed)
    for role in ROLES:
        splits[role] = _limit(splits[role], role, options, seed)
        if role == "train":
            splits[role] = hide_labels(splits[role], options.max_labelled_samples, _per_class(options), seed)
        _check_rows(splits[role], role, origin[role], kind if labels else None)
    facts = _facts(source, splits, origin, names, options)
    return Splits(splits["train"], splits["validation"], splits["test"], names, facts)


def found_in_words(splits: Splits) -> str:
    """A line on what was found, to be read before hours of training: rows and labels of each split, the classes."""
    facts = splits.facts
    rows, labelled = facts.get("rows") or {}, facts.get("labelled") or {}
    parts = []
    for role, origin in facts.get("splits", {}).items():
        count = "a stream" if rows.get(role) is None else f"{rows[role]:,}"
        few = labelled.get(role, rows.get(role)) != rows.get(role)
        parts.append(f"{role} {count}{f', {labelled[role]:,} with a label' if few else ''} ({origin})")
    names = splits.label_names or []
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"Data: {facts.get('name')}: {'; '.join(parts)}" + (f"; {len(names)} classes: {shown}" if names else "")


def _choose(source: Source, options: RecipeOptions) -> dict[str, str]:
    """The split of each role; a role that has none is absent."""
    asked = {"train": options.train_split, "validation": options.validation_split, "test": options.test_split}
    chosen: dict[str, str] = {}
    for role, name in asked.items():
        if name is None:
            continue
        name = _found(name, role, source)
        if name not in source.splits:
            there, near = ", ".join(source.splits), nearest(name, source.splits)
            raise DataError(f"--{role}_split {name}: {source.name} has no such split, only: {there}{near}")
        if name in chosen.values():
            other = next(other for other, taken in chosen.items() if taken == name)
            raise DataError(
                f"--{role}_split {name}: it is the {other} split already; what is learned from, selects and is "
                "reported must differ (without --test_split, validation is halved)"
            )
        chosen[role] = name
    for role in ("validation", "test"):
        by_name = {name.casefold(): name for name in source.splits if name not in chosen.values()}
        free = [by_name[alias] for alias in SPLIT_ALIASES[role] if alias in by_name]
        if role not in chosen and free:
            chosen[role] = free[0]
    if "validation" not in chosen and options.streaming:
        way = f"--validation_split {chosen['test']} (it is then halved)" if "test" in chosen else "--validation_split"
        raise DataError(
            f"{source.name} has no validation split, and rows of a stream cannot be drawn for one: give {way}, or "
            f"leave out --streaming; splits there are: {', '.join(source.splits)}"
        )
    return chosen


def _found(name: str, role: str, source: Source) -> str:
    """The split that a name means: as it is written, in another case, or under the role's other names."""
    if name in source.splits:
        return name
    alike = [split for split in source.splits if split.casefold() == name.casefold()]
    if not alike and name == role:
        alike = [split for split in source.splits if role_of(split) == role]
    return alike[0] if len(alike) == 1 else name


def _leave_unlabelled_test(chosen: dict[str, str], source: Source, options: RecipeOptions, kind: _Labels) -> None:
    if options.test_split is not None or "test" not in chosen:
        return
    column, test = options.label_column, source.splits[chosen["test"]]
    if isinstance(test, Dataset) and not len(test):
        return
    train = source.splits[chosen["train"]].features
    if train is not None and column in train and not kind.are_in(test, column):
        del chosen["test"]
        if "validation" not in chosen and options.streaming:
            raise DataError(f"{source.name}: the test split has no labels and there is no validation split")


def _part(
    chosen: dict[str, str], ready: dict[str, AnyDataset], seed: int
) -> tuple[dict[str, AnyDataset], dict[str, str]]:
    """The splits of the three roles, and where each comes from, in words."""
    splits = {role: ready[name] for role, name in chosen.items()}
    origin = dict(chosen)
    train, name = splits["train"], chosen["train"]
    if "validation" not in chosen and isinstance(train, Dataset):
        # Rows that measure need a label, where any has one.
        labelled = which_labelled(train)
        usable = np.flatnonzero(labelled) if labelled is not None and labelled.any() else np.arange(len(train))
        order = usable[np.random.default_rng(seed).permutation(len(usable))]
        tenth = max(1, len(usable) // 10)
        taken = ["validation"] if "test" in chosen else ["validation", "test"]
        for part, role in enumerate(taken):
            splits[role] = train.select(np.sort(order[part * tenth : (part + 1) * tenth]))
            origin[role] = f"a tenth of {name} (seed {seed})"
        splits["train"] = train.select(np.setdiff1d(np.arange(len(train)), order[: len(taken) * tenth]))
        origin["train"] = f"the rest of {name} (seed {seed})"
    elif "test" not in chosen:
        splits["validation"], splits["test"], how = _halve(splits["validation"], seed)
        origin["validation"] = f"one half of {chosen['validation']} ({how})"
        origin["test"] = f"the other half of {chosen['validation']} ({how})"
    return splits, {role: origin[role] for role in ROLES}


def _halve(split: AnyDataset, seed: int) -> tuple[AnyDataset, AnyDataset, str]:
    if isinstance(split, IterableDataset):
        even, odd = (split.filter(partial(_has_parity, parity)) for parity in (0, 1))
        return even, odd, "by a hash of each image"
    order = np.random.default_rng(seed).permutation(len(split))
    middle = (len(split) + 1) // 2
    return split.select(np.sort(order[:middle])), split.select(np.sort(order[middle:])), f"seed {seed}"


def _has_parity(parity: int, row: dict[str, Any]) -> bool:
    return row_id(row) % 2 == parity


def _limit(split: AnyDataset, role: str, options: RecipeOptions, seed: int) -> AnyDataset:
    limit = options.max_train_samples if role == "train" else options.max_eval_samples
    if limit is None:
        return split
    if limit < 1:
        raise DataError(f"--max_{'train' if role == 'train' else 'eval'}_samples must be 1 or more, got {limit}")
    if isinstance(split, IterableDataset):
        return split.take(limit)
    if limit >= len(split):
        return split
    return split.select(np.sort(np.random.default_rng(seed).permutation(len(split))[:limit]))


def _per_class(options: RecipeOptions) -> int | None:
    return options.labels_per_class if isinstance(options, ClassOptions) else None


def _check_rows(split: AnyDataset, role: str, origin: str, kind: _Labels | None) -> None:
    if isinstance(split, Dataset) and not len(split):
        raise DataError(f"{role} is empty ({origin}); give a larger one with --{role}_split")
    if kind is not None and role != "train" and not kind.are_in(split):
        raise LabelError(
            f"no row of {role} ({origin}) has a label, so it can measure nothing; give another with "
            f"--{role}_split, or --labels false"
        )


def _facts(
    source: Source,
    splits: dict[str, AnyDataset],
    origin: dict[str, str],
    names: list[str] | None,
    options: RecipeOptions,
) -> dict[str, Any]:
    sets = {role: split for role in ROLES if isinstance(split := splits[role], Dataset)}
    extra: list[Any] = [origin, options.max_train_samples, options.max_eval_samples]
    extra += ["reduce_labels"] if isinstance(options, MaskOptions) and options.reduce_labels else []
    hidden = {"max_labelled_samples": options.max_labelled_samples, "labels_per_class": _per_class(options)}
    extra += [f"{name} {count}" for name, count in hidden.items() if count is not None]
    digest, covers = fingerprint({role: splits[role] for role in ROLES}, source, names, extra)
    return {
        "name": source.name,
        "config": source.config,
        "revision": source.revision,
        "splits": origin,
        "rows": {role: len(split) for role, split in sets.items()} or None,
        "labelled": {role: int((labels_of(split) >= 0).sum()) for role, split in sets.items()} or None,
        "fingerprint": digest,
        "fingerprint_of": covers,
    }
