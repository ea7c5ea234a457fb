"""One split with exactly the columns `image` and `label`, labels as numbers, -1 for none; checked on the way."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value

from ..config.options import RecipeOptions
from ..config.values import nearest
from ..errors import DataError, LabelError
from .label_names import given_names
from .sources import Source, explained

AnyDataset: TypeAlias = Dataset | IterableDataset

LOOK_AT = 1000
"""Rows of a stream that are read to see whether it has labels."""


def check_columns(split: AnyDataset, name: str, options: RecipeOptions, labels: bool) -> Features:
    """The features of the image column and, where the split has it, of the label column.

    Args:
        split (`Dataset` or `IterableDataset`): as it was found; of a stream, the first row is read.
        name (`str`): of the split, for messages.
        options ([`RecipeOptions`]): `image_column` and `label_column`.
        labels (`bool`): whether the label column must be there.

    Raises:
        [`DataError`]: the split is empty, a column is missing (lists those there are), or the
            image column holds something else.
    """
    image, label = options.image_column, options.label_column
    if image == label:
        raise DataError(f"--image_column and --label_column are both {image}")
    features = _features(split, name, image)
    needed = {"--image_column": image} | ({"--label_column": label} if labels else {})
    for flag, column in needed.items():
        if column not in features:
            there = ", ".join(f"{key} ({kind_of(feature)})" for key, feature in features.items())
            more = "" if column == image else ", or --labels false to train without labels"
            raise DataError(
                f"split {name} has no column {column}, only: {there}{nearest(column, features)}; "
                f"choose with {flag}{more}"
            )
    if not may_be_image(features[image]):
        held = kind_of(features[image])
        raise DataError(f"column {image} of split {name} holds {held}, no images; choose with --image_column")
    return Features({column: features[column] for column in (image, label) if column in features})


def _features(split: AnyDataset, name: str, image: str) -> dict[str, Any]:
    features = split.features
    if isinstance(split, Dataset):
        if not len(split):
            raise DataError(f"split {name} is empty")
        return dict(split.features)
    if features and isinstance(features.get(image), datasets.Image):
        split = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    with explained(name):
        row = next(iter(split.take(1)), None)
    if row is None:
        raise DataError(f"split {name} is empty")
    return dict(features) if features else {key: _feature_of(value) for key, value in row.items()}


def _feature_of(value: Any) -> Any:
    """The feature of a streamed value, for streams that do not say it."""
    if value is None:
        return Value("null")
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        return datasets.Image(decode=False)
    kinds = {bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary"}
    return Value(kinds[type(value)]) if type(value) in kinds else {}


def kind_of(feature: Any) -> str:
    """What a column holds, for messages."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def is_array(feature: Any) -> bool:
    """Whether a column holds arrays of numbers."""
    return isinstance(feature, datasets.Array2D | datasets.Array3D | datasets.List)


def may_be_image(feature: Any) -> bool:
    """Whether a column may hold images: image files, their paths, or arrays."""
    if isinstance(feature, Value):
        return feature.dtype.removeprefix("large_") in ("binary", "string")
    is_struct = isinstance(feature, dict) and bool({"bytes", "path"} & set(feature))
    return is_struct or isinstance(feature, datasets.Image) or is_array(feature)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype.removeprefix("large_") == "string"


def _is_whole(feature: Any) -> bool:
    return isinstance(feature, Value) and (feature.dtype.lstrip("u").startswith("int") or feature.dtype == "null")


def _may_be_label(feature: Any) -> bool:
    return isinstance(feature, ClassLabel) or _is_text(feature) or _is_whole(feature)


def find_label_names(columns: dict[str, Features], source: Source, options: RecipeOptions) -> list[str] | None:
    """The names of the classes: those of `ClassLabel`, the same in all splits, else the sorted texts of all splits,
    else what `--label_names` says.

    Args:
        columns (`dict[str, Features]`): what [`check_columns`] found, by split.
        source ([`Source`]): the splits themselves.
        options ([`RecipeOptions`]): `label_column`, `label_names` and `streaming`.

    Returns:
        `list[str]`, or `None` where labels are plain numbers without names, or absent.

    Raises:
        [`LabelError`]: labels of a type that is none, other names in another split or as given,
            or text in a stream, which does not say which classes there are.
    """
    own, given = _own_names(columns, source, options), given_names(options)
    if own and given and own != given:
        raise LabelError(f"--label_names names {len(given)} classes, but the data set names its {len(own)} otherwise")
    return own or given


def _own_names(columns: dict[str, Features], source: Source, options: RecipeOptions) -> list[str] | None:
    column = options.label_column
    found = {name: features[column] for name, features in columns.items() if column in features}
    for name, feature in found.items():
        if not _may_be_label(feature):
            raise LabelError(
                f"column {column} of split {name} holds {kind_of(feature)}; labels are whole numbers, class labels or "
                "text; choose with --label_column"
            )
    named = {name: list(feature.names) for name, feature in found.items() if isinstance(feature, ClassLabel)}
    if named:
        return _common_names(named)
    texts = [name for name, feature in found.items() if _is_text(feature)]
    if texts and options.streaming:
        raise LabelError(
            f"column {column} holds text, and a stream does not say which classes there are; store it as ClassLabel "
            "or whole numbers, or leave out --streaming"
        )
    other = [name for name in found if name not in texts]
    if texts and other:
        raise LabelError(
            f"column {column} holds text in split {texts[0]} but {kind_of(found[other[0]])} in {other[0]}"
        )
    values = {text for name in texts for text in _label_values(source.splits[name], column).unique().to_pylist()}
    return sorted(values - {None}) or None


def _common_names(named: dict[str, list[str]]) -> list[str]:
    (first_name, first), *others = named.items()
    for name, names in others:
        if names != first:
            pairs = enumerate(zip(first, names, strict=False))
            what = f"{len(first)} and {len(names)} classes"
            what = next((f"class {at}: {one!r}, {two!r}" for at, (one, two) in pairs if one != two), what)
            raise LabelError(f"splits {first_name} and {name} differ in their label names ({what}); save them alike")
    return first


def _label_values(split: AnyDataset, column: str) -> pa.ChunkedArray:
    return split.select_columns([column]).with_format("arrow")[:].column(column)  # type: ignore[index, call-overload]


def unify(
    split: AnyDataset, name: str, features: Features, names: list[str] | None, options: RecipeOptions
) -> AnyDataset:
    """The split with the columns `image` (undecoded) and, where it has labels, `label` (`int64`, -1 for none).

    Args:
        split (`Dataset` or `IterableDataset`): as it was found.
        name (`str`): of the split, for messages.
        features (`Features`): what [`check_columns`] gave.
        names (`list[str]`, *optional*): the classes; labels must be below their number.
        options ([`RecipeOptions`]): `image_column` and `label_column`.

    Raises:
        [`LabelError`]: a label is out of range or no known name; the message has row and value.
            Of a stream it comes when the row is read.
    """
    image, label = options.image_column, options.label_column
    if isinstance(split, IterableDataset):
        return _unify_stream(split, name, features, names, options)
    numbers = _numbers(_label_values(split, label), features[label], names, name) if label in features else None
    split = split.select_columns([image])
    if image != "image":
        split = split.rename_column(image, "image")
    if not is_array(features[image]):
        split = split.cast_column("image", datasets.Image(decode=False))
    return split if numbers is None else split.add_column("label", numbers)  # type: ignore[call-arg, arg-type]


def _numbers(values: pa.ChunkedArray, feature: Any, names: list[str] | None, split: str) -> np.ndarray:
    if _is_text(feature):
        index: dict[str | None, int] = {None: -1, **{name: number for number, name in enumerate(names or [])}}
        texts = values.to_pylist()
        unknown = next((row for row, text in enumerate(texts) if text not in index), None)
        if unknown is not None:
            near = nearest(texts[unknown], names or [])
            raise LabelError(f"{split} row {unknown}: {texts[unknown]!r} is none of the label names{near}")
        return np.array([index[text] for text in texts], dtype=np.int64)
    numbers = values.cast(pa.int64()).fill_null(-1).to_numpy()
    wrong = (numbers < -1) | (numbers >= (np.inf if names is None else len(names)))
    if wrong.any():
        row = int(wrong.argmax())
        raise _out_of_range(split, row, int(numbers[row]), None if names is None else len(names))
    return numbers


def _out_of_range(split: str, row: int, value: int, classes: int | None) -> LabelError:
    allowed = f"0 to {classes - 1}" if classes else "0 or more"
    return LabelError(f"{split} row {row}: label {value} is out of range: {allowed}, and -1 or null for no label")


def _unify_stream(
    split: IterableDataset, name: str, features: Features, names: list[str] | None, options: RecipeOptions
) -> IterableDataset:
    image, label = options.image_column, options.label_column
    keep = [column for column in (image, label) if column in features]
    target = {"image": features[image] if is_array(features[image]) else datasets.Image(decode=False)}
    target |= {"label": Value("int64")} if label in features else {}
    if isinstance(features[image], datasets.Image) and split.features:
        split = split.cast_column(image, datasets.Image(decode=False))
    row_of = partial(_stream_row, image=image, label=label, split=name, classes=len(names) if names else None)
    return split.select_columns(keep).map(row_of, with_indices=True, remove_columns=keep, features=Features(target))


def _stream_row(
    row: dict[str, Any], index: int, *, image: str, label: str, split: str, classes: int | None
) -> dict[str, Any]:
    value = row[image]
    if isinstance(value, bytes | str):
        value = {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}
    if label not in row:
        return {"image": value}
    number = -1 if row[label] is None else int(row[label])
    if number < -1 or (classes is not None and number >= classes):
        raise _out_of_range(split, index, number, classes)
    return {"image": value, "label": number}


def has_labels(split: AnyDataset, column: str = "label") -> bool:
    """Whether any row has a label (a number of 0 or more, or a text); of a stream, any of its first 1,000 rows."""
    if split.features is not None and column not in split.features:
        return False
    if split.features is not None and not _may_be_label(split.features[column]):
        return True
    if isinstance(split, Dataset):
        values = _label_values(split, column).drop_null()
        return any(not isinstance(value, int) or value >= 0 for value in values.unique().to_pylist())
    rows = (row[column] for row in split.select_columns([column]).take(LOOK_AT))
    return any(value is not None and (not isinstance(value, int) or value >= 0) for value in rows)
