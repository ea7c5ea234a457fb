"""Rows as users hand them to the trainer, under the names and with the labels that collators and tasks read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..config.data_options import ColumnOptions
from ..config.options import RecipeOptions
from ..distillation.label_alignment import align_labels
from ..errors import DataError, LabelError
from .class_labels import check_class_names, class_names, class_number, is_text, may_be_label
from .collator import SAMPLE_ID, IdentifiedRows, IdentifiedStream
from .columns import (
    KINDS,
    Target,
    check_columns,
    choose_columns,
    chosen,
    common_names,
    feature_of,
    features_of,
    label_values,
    unify,
)
from .inputs import IMAGES, Inputs, is_array, kind_of
from .label_sets import class_set, names_in_sets, unify_sets


class GivenRows:
    """
    Reads data sets with one pair of columns and one list of classes.

    Args:
        options ([`ColumnOptions`]): the columns, where the user names them.
        target (`str`, *optional*): what labels are; tasks whose rows are of their own kind have none, and their rows
            stay as they are.
        labels (`bool`): whether training rows must have a label column.
        names (`list[str]`, *optional*): the classes in the order of the labels, where the user gives them.
        inputs ([`Inputs`], *optional*): what the rows hold; images when unset.

    Example:

    ```python
    >>> rows = GivenRows(ColumnOptions(), "class", labels=True).read(train, "train_dataset", trains=True)
    >>> sorted(rows[0])
    ['image', 'label']
    ```
    """

    def __init__(
        self,
        options: ColumnOptions,
        target: Target | None,
        labels: bool,
        names: Sequence[str] | None = None,
        inputs: Inputs = IMAGES,
    ):
        # Not `options` itself: a configuration sets up devices anew when it is copied.
        self.options = ColumnOptions(options.input_column, options.label_column)
        self.target, self.labels, self.inputs = target, labels, inputs
        self.given = list(names) if names else None
        self.names = self.given
        """The classes, once somebody has said them."""

    def read(self, rows: Any, name: str, trains: bool = False) -> Any:
        """
        The same rows with the column of the inputs (`image`) and `label`.

        Args:
            rows: a `datasets.Dataset` or `IterableDataset`, or any rows that are dictionaries.
            name (`str`): what the user calls them, for messages.
            trains (`bool`, *optional*, defaults to `False`): whether they are learned from.

        Raises:
            [`DataError`], [`LabelError`]: no rows of dictionaries, no such column, several that may be meant, labels
                that are none, or other names of classes than those of other rows.
        """
        if rows is None or self.target is None or isinstance(rows, IdentifiedRows | IdentifiedStream):
            return rows
        refuse_what_is_no_rows(rows, name)
        if isinstance(rows, datasets.IterableDataset) or (
            isinstance(rows, datasets.Dataset) and rows.format["type"] != "custom"
        ):
            return self._read_table(plainly_formatted(rows), name, trains)
        if isinstance(rows, IterableDataset):
            return NamedStream(rows, self, name, trains)
        if not len(rows):
            raise DataError(f"{name} is empty")
        with torch.random.fork_rng(devices=[]):
            options = self.columns_of(rows[0], name, trains)
        new_names = self.new_names(options)
        named = rows if all(old == new for old, new in new_names.items()) else NamedRows(rows, new_names)
        if isinstance(rows, list | tuple):
            self._check_listed(rows, name, options)
        return named

    def columns_of(self, row: Any, name: str, trains: bool) -> ColumnOptions:
        """The columns of rows like this one."""
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}: a row is a {type(row).__name__}, and must be a dict such as {{'image': image, 'label': 3}}; "
                "datasets.Dataset.from_generator makes such rows of others"
            )
        features = {key: feature_of(value) for key, value in row.items() if key != SAMPLE_ID}
        options = self._choose(features, name, trains)
        if chosen(options)[0] not in features:
            check_columns(features, name, options, labels=False, inputs=self.inputs)
        return options

    def new_names(self, options: ColumnOptions) -> dict[str, str]:
        """What the columns of input and label are called from here on."""
        return dict(zip(chosen(options), (self.inputs.column, "label"), strict=True))

    def _choose(self, features: Mapping[str, Any], name: str, trains: bool) -> ColumnOptions:
        """The columns; training rows decide for those that are read after them."""
        wants_labels = trains and self.labels
        known = {"label_column": None} if not trains and self.options.label_column not in features else {}
        left_open = replace(self.options, **known)
        options = choose_columns(
            features, name, left_open, labels=wants_labels, target=self.target or "class", inputs=self.inputs
        )
        if trains:
            self.options = options
        return options

    def _read_table(self, rows: Any, name: str, trains: bool) -> Any:
        features = features_of(rows, name)
        options = self._choose(features, name, trains)
        image, label = chosen(options)
        found = check_columns(features, name, options, trains and self.labels, self.inputs)
        if self.target == "class" and label in found:
            self._learn_names(rows, found[label], label, name)
            if not _is_number(found[label]) or not rows.features:
                recipe = replace(RecipeOptions(), **_columns(options))
                return unify(rows, name, found, names=self.names, options=recipe, inputs=self.inputs)
        if self.target == "classes" and label in found:
            self._learn_sets(rows, found[label], label, name)
            recipe = replace(RecipeOptions(), **_columns(options))
            return unify_sets(rows, name, found, names=self.names, options=recipe, inputs=self.inputs)
        roles = self.new_names(options)
        taken = sorted({column for column in roles.values() if column in features} - set(roles))
        renamed = {column: role for column, role in roles.items() if column in found and column != role}
        rows = rows.remove_columns(taken) if taken else rows
        rows = rows.rename_columns(renamed) if renamed else rows
        stored = self.inputs.feature(found[image])
        if stored != found[image]:
            rows = rows.cast_column(self.inputs.column, stored)
        if self.target == "mask" and label in found and not is_array(found[label]):
            rows = rows.cast_column("label", datasets.Image(decode=False))
        return rows

    def _check_listed(self, rows: Sequence[Mapping[str, Any]], name: str, options: ColumnOptions) -> None:
        for place, row in enumerate(rows):
            value, where = row.get(options.label_column or ""), f"{name} row {place}"
            if self.target == "class":
                class_number(value, self.names, row=where)
            elif self.target == "classes" and value is not None:
                class_set(value, self.names, classes=self._count(name), row=where)

    def _count(self, name: str) -> int:
        if not self.names:
            raise LabelError(f"{name} has several labels per row, and nobody says which: give the cohort label_names")
        return len(self.names)

    def _learn_sets(self, rows: Any, feature: Any, column: str, name: str) -> None:
        own = names_in_sets({name: (rows, feature)}, column)
        if own and self.names is None:
            self.names = own
        elif own and not is_text(feature.feature) and not _are_alike(self.names or (), own):
            common_names({"label_names": list(self.names or ()), name: own})
        self._count(name)

    def _learn_names(self, rows: Any, feature: Any, column: str, name: str) -> None:
        if not may_be_label(feature):
            raise LabelError(f"column {column} of {name} holds {kind_of(feature)}; labels are {KINDS}")
        names = None
        if isinstance(feature, datasets.ClassLabel):
            names = check_class_names(feature.names, f"column {column} of {name}")
        elif is_text(feature) and self.names is None:
            if isinstance(rows, datasets.IterableDataset):
                raise LabelError(
                    f"column {column} of {name} holds text, and a stream does not say which classes there are; give "
                    "them to the cohort (label_names)"
                )
            names = class_names(label_values(rows, column).unique().to_pylist())
        if names is None:
            return
        if self.given is None:
            self.names = common_names({"before": self.names, name: names}) if self.names else names
        elif not _are_alike(self.given, names):
            common_names({"label_names": self.given, name: names})


def plainly_formatted(rows: Any) -> Any:
    """A table without `with_format("torch")` and the like, which would turn undecoded images into tensors of bytes."""
    is_plain = isinstance(rows, datasets.Dataset) and rows.format["type"] is None
    return rows if is_plain else rows.with_format(None)


def refuse_what_is_no_rows(rows: Any, name: str) -> None:
    """Raise [`DataError`] for what people hand over in the place of one data set."""
    if isinstance(rows, Mapping):
        raise DataError(f"{name} is a {type(rows).__name__} of {', '.join(map(str, rows))}; give one of them")
    if isinstance(rows, DataLoader):
        raise DataError(
            f"{name} is a DataLoader; give its data set (loader.dataset): each peer needs batches of its own, of "
            "per_device_train_batch_size and per_device_eval_batch_size rows"
        )
    is_counted = hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and not isinstance(rows, str | bytes)
    if not is_counted and not isinstance(rows, IterableDataset | datasets.IterableDataset):
        raise DataError(
            f"{name} is a {type(rows).__name__}, no data set: rows are counted and indexed, or an IterableDataset; "
            "datasets.load_dataset opens files and data sets of the Hub"
        )


def _columns(options: ColumnOptions) -> dict[str, Any]:
    return {"input_column": options.input_column, "label_column": options.label_column}


def _is_number(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel) or feature.dtype.lstrip("u").startswith("int")


def _are_alike(given: Sequence[str], names: Sequence[str]) -> bool:
    """Whether two lists name the same classes in the same order, however they spell them."""
    try:
        return align_labels("", given, dataset_labels=names) is None
    except LabelError:
        return False


def _renamed(row: Mapping[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
    others = {key: value for key, value in row.items() if key not in {*new_names, *new_names.values()}}
    return others | {new: row[old] for old, new in new_names.items() if old in row}


class NamedRows(torch.utils.data.Dataset):
    """Rows that can be counted, with their columns of input and label under other names."""

    def __init__(self, rows: Any, new_names: Mapping[str, str]):
        self.rows, self.new_names = rows, new_names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _renamed(self.rows[index], self.new_names)


class NamedStream(IterableDataset):
    """Rows that come one after the other, with their columns named as the first of them shows."""

    def __init__(self, rows: Any, given: GivenRows, name: str, trains: bool):
        self.rows, self.given, self.name, self.trains = rows, given, name, trains

    def __iter__(self) -> Iterator[dict[str, Any]]:
        new_names: dict[str, str] | None = None
        for row in self.rows:
            new_names = new_names or self.given.new_names(self.given.columns_of(row, self.name, self.trains))
            yield _renamed(row, new_names)

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle the stream where it can be."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)
