"""Labels that say several classes of a row: lists of names or numbers, or 0 or 1 for each class; null for none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from ..config.options import RecipeOptions
from ..errors import ConfigError, LabelError
from .class_labels import check_class_names, class_names, class_number, is_text
from .columns import AnyDataset, chosen, common_names, label_values
from .inputs import IMAGES, Inputs, kind_of
from .label_names import given_names
from .sources import Source

KINDS = "lists of names or of whole numbers, or a list with true or false for each class"
STORED = List(Value("int64"))
"""What labels of unified rows are: numbers of classes, rising; null for no label, empty for none of the classes."""


def may_be_set(feature: Any) -> bool:
    """Whether a column may hold several classes of each row."""
    if not isinstance(feature, List):
        return False
    inner = feature.feature
    return isinstance(inner, ClassLabel | Value)


def class_set(value: Any, names: Sequence[str] | None, *, classes: int, row: str, vector: bool = False) -> list[int]:
    """
    The classes of one row as rising numbers.

    Args:
        value: a list of names of `names`, or of whole numbers; a list, array or tensor of true and false, or of floats
            0 and 1, one for each class.
        names (`list[str]`, *optional*): the classes, for labels that are text.
        classes (`int`): how many there are.
        row (`str`): which row it is, for messages.
        vector (`bool`, *optional*, defaults to `False`): whether whole numbers are 0 and 1 for each class, too.

    Raises:
        [`LabelError`]: it is something else, a class is there twice, or only some classes of the row are known.

    Example:

    ```python
    >>> class_set(["owl", "cat"], ["cat", "dog", "owl"], classes=3, row="row 0")
    [0, 2]
    ```
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise LabelError(
            f"{row}: the label is a {type(value).__name__} ({value!r:.40}), one class; several are {KINDS}; a row "
            "with one class is a list of one, and rows that all have one are for the task without multi-label-"
        )
    if value and all(isinstance(item, bool | float) or (vector and isinstance(item, int)) for item in value):
        return _of_vector(value, classes, row)
    found = [class_number(item, names, classes, row) for item in value]
    if any(number < 0 for number in found):
        raise LabelError(f"{row}: {value!r:.60} holds null or -1; a row says all of its classes, or is null itself")
    if len(set(found)) < len(found):
        raise LabelError(
            f"{row}: {value!r:.60} has a class twice; where it is 0 or 1 for each class, store it as true and false"
        )
    return sorted(found)


def _of_vector(value: Sequence[Any], classes: int, row: str) -> list[int]:
    if len(value) != classes:
        raise LabelError(f"{row}: the label has {len(value)} entries for {classes} classes")
    if any(item not in (0, 1) for item in value):
        raise LabelError(
            f"{row}: the label holds {next(item for item in value if item not in (0, 1))!r}; it must be 0 or 1 for "
            "each class (rows of which only some classes are known are not supported; make their label null)"
        )
    return [number for number, item in enumerate(value) if item]


def find_set_names(columns: dict[str, Features], source: Source, options: RecipeOptions) -> list[str]:
    """The names of the classes: those of `ClassLabel`, else the sorted texts of all splits, else `--label_names`.

    Raises:
        [`LabelError`]: the column holds no lists, or nobody names the classes.
    """
    column = chosen(options)[1]
    held = {name: features[column] for name, features in columns.items() if column in features}
    if options.streaming and held:
        raise ConfigError("several labels per row need rows that can be counted; leave out streaming")
    own = names_in_sets({name: (source.splits[name], feature) for name, feature in held.items()}, column)
    given = given_names(options)
    if own and given and own != given:
        raise LabelError(f"--label_names names {len(given)} classes, but the data set names its {len(own)} otherwise")
    if held and not (own or given):
        raise LabelError(
            f"column {column} numbers its classes, and nobody says which there are: give --label_names NAME,NAME …"
        )
    return own or given or []


def names_in_sets(held: dict[str, tuple[AnyDataset, Any]], column: str) -> list[str] | None:
    """The names that columns of lists bring: of classes, or their texts.

    Args:
        held (`dict`): rows and the feature of their column, by the name of the split.
        column (`str`): their column.
    """
    for name, (_, feature) in held.items():
        if not may_be_set(feature):
            raise LabelError(
                f"column {column} of split {name} holds {kind_of(feature)}; several labels per row are {KINDS}; of "
                "columns with 0 and 1 make one: rows.map(lambda row: {'label': [one for one in NAMES if row[one]]})"
            )
    named = {
        name: check_class_names(feature.feature.names, f"column {column} of split {name}")
        for name, (_, feature) in held.items()
        if isinstance(feature.feature, ClassLabel)
    }
    if named:
        return common_names(named)
    texts: set[str] = set()
    for rows, feature in held.values():
        if is_text(feature.feature):
            texts |= {text for cell in label_values(rows, column).to_pylist() for text in cell or () if text}
    return class_names(sorted(texts)) or None


def unify_sets(
    split: AnyDataset,
    name: str,
    features: Features,
    *,
    names: list[str] | None,
    options: RecipeOptions,
    inputs: Inputs = IMAGES,
) -> AnyDataset:
    """As [`unify`], with `label` as [`STORED`]."""
    source, label = chosen(options)
    columns = {source: inputs.column} | {name: name for name in inputs.further if name in features}
    if not isinstance(split, Dataset):
        raise ConfigError(f"{name} is a stream; several labels per row need rows that can be counted")
    found = None
    if label in features:
        feature = features[label]
        classes = len(names or ())
        vector = feature.length == classes
        cells = label_values(split, label).to_pylist()
        found = [
            None if cell is None else class_set(cell, names, classes=classes, row=f"{name} row {row}", vector=vector)
            for row, cell in enumerate(cells)
        ]
    split = split.select_columns(list(columns)).rename_columns(columns)
    if inputs.feature(features[source]) != features[source]:
        split = split.cast_column(inputs.column, inputs.feature(features[source]))
    if found is None:
        return split
    stored: Any = pa.array(found, pa.list_(pa.int64()))
    with_labels: Any = split.add_column("label", stored, feature=STORED)
    return with_labels


def has_sets(split: AnyDataset, column: str = "label") -> bool:
    """Whether any row has a label, if only an empty one."""
    if not isinstance(split, Dataset) or column not in split.column_names:
        return False
    return label_values(split, column).null_count < len(split)


def check_sets(split: AnyDataset, name: str, classes: int) -> None:
    """Refuse labels of a unified split that are none of so many classes.

    Raises:
        [`LabelError`]: names split, row and value.
    """
    if isinstance(split, Dataset) and "label" in split.column_names:
        for row, cell in enumerate(label_values(split, "label").to_pylist()):
            if cell is not None:
                class_set(cell, None, classes=classes, row=f"{name} row {row}")


def set_vector(numbers: Sequence[int] | None, classes: int) -> list[int]:
    """A row's classes as 0 and 1 for each class; -1 throughout for a row without a label."""
    if numbers is None:
        return [-1] * classes
    return np.bincount(np.asarray(numbers, dtype=np.int64), minlength=classes).tolist()
