"""One split with exactly the columns of the inputs and `label`, labels as numbers, -1 for none; checked on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from PIL.Image import Image as PILImage

from ..config.data_options import ColumnOptions
from ..config.options import RecipeOptions
from ..config.values import nearest
from ..errors import DataError, LabelError
from .class_labels import KINDS, check_class_names, class_names, class_number, class_numbers, is_text, may_be_label
from .file_columns import DECODING, FILE, without_decoding
from .inputs import IMAGES, Inputs, as_it_is, kind_of
from .label_names import given_names
from .sources import Source, as_data_error

AnyDataset: TypeAlias = Dataset | IterableDataset

Target: TypeAlias = Literal["class", "classes", "mask"]
"""What a label column holds: the class of each row, several of each, or masks with one class for each pixel."""
LABEL_FEATURES: dict[str, type] = {"class": ClassLabel, "classes": List, "mask": datasets.Image}
"""By the target: the feature of a column that is found without being named."""

Options = TypeVar("Options", bound=ColumnOptions)

LOOK_AT = 1000
"""Rows of a stream that are read to see whether it has labels."""


def choose_columns(
    features: Mapping[str, Any],
    name: str,
    options: Options,
    *,
    labels: bool,
    target: Target = "class",
    inputs: Inputs = IMAGES,
) -> Options:
    """
    The options with the columns that are read where they leave it open.

    The input is the column that has the task's name for it (`image`), else the one column of such inputs; the label is
    the column `label`, else the one column of class labels (for masks the one other column of images).

    Args:
        features (`Mapping[str, Any]`): what each column of a split holds.
        name (`str`): of the split, for messages.
        options ([`ColumnOptions`]): columns that they name are taken as they are.
        labels (`bool`): whether there must be labels.
        target (`str`, *optional*, defaults to `"class"`): what the label column holds.
        inputs ([`Inputs`], *optional*): what the input column holds; images when unset.

    Raises:
        [`DataError`]: there is no column that may be meant, or more than one; lists those there are.

    Example:

    ```python
    >>> features = Features({"img": datasets.Image(), "fine_label": ClassLabel(names=["cat", "dog"])})
    >>> choose_columns(features, "train", ColumnOptions(), labels=True)
    ColumnOptions(input_column='img', label_column='fine_label')
    ```
    """
    image, label = options.input_column, options.label_column
    if image is None:
        found = [key for key, held in features.items() if inputs.typical(held) and key != label]
        image = _only(found, features, inputs.column, f"split {name}: %s; choose with --input_column")
    if label is None:
        found = [key for key in _held_by(features, LABEL_FEATURES[target]) if key != image]
        way = "choose with --label_column, or --labels false to train without labels"
        label = _only(found, features, "label", f"split {name}: %s; {way}" if labels else None)
    made = copy.copy(options)
    made.input_column, made.label_column = image, label
    return made


def _only(found: list[str], features: Mapping[str, Any], default: str, message: str | None) -> str:
    """The column `default`, else the only one that was found; refused by `message` where there is one."""
    if default in features or (len(found) != 1 and message is None):
        return default
    if len(found) != 1:
        raise DataError(
            str(message)
            % f"no column {default}, {'several others may be it' if found else 'only'}: {_listed(features)}"
        )
    return found[0]


def chosen(options: ColumnOptions) -> tuple[str, str]:
    """The columns of input and label, where [`choose_columns`] left none open."""
    return str(options.input_column), str(options.label_column)


def _held_by(features: Mapping[str, Any], kind: type) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, kind)]


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} ({kind_of(feature)})" for key, feature in features.items())


def check_columns(
    features: Mapping[str, Any], name: str, options: ColumnOptions, labels: bool, inputs: Inputs = IMAGES
) -> Features:
    """The features of the input columns and, where the split has it, of the label column.

    Args:
        features (`Mapping[str, Any]`): what each column of the split holds, see [`features_of`].
        name (`str`): of the split, for messages.
        options ([`ColumnOptions`]): both columns, see [`choose_columns`].
        labels (`bool`): whether the label column must be there.
        inputs ([`Inputs`], *optional*): what the input column holds; images when unset.

    Raises:
        [`DataError`]: a column is missing (lists those there are), or the input column holds
            something else.
    """
    image, label = chosen(options)
    if image == label:
        raise DataError(f"--input_column and --label_column are both {image}")
    needed = {"--input_column": image} | ({"--label_column": label} if labels else {})
    for flag, column in needed.items():
        if column not in features:
            more = "" if column == image else ", or --labels false to train without labels"
            raise DataError(
                f"split {name} has no column {column}, only: {_listed(features)}{nearest(column, features)}; "
                f"choose with {flag}{more}"
            )
    if not inputs.fits(features[image]):
        held = kind_of(features[image])
        raise DataError(f"column {image} of split {name} holds {held}, no {inputs.noun}s; choose with --input_column")
    return Features({column: features[column] for column in (image, *inputs.further, label) if column in features})


def features_of(split: AnyDataset, name: str) -> dict[str, Any]:
    """What each column of a split holds; the first row of a stream is read, files in it are not decoded.

    Raises:
        [`DataError`]: the split is empty, or its first row can't be read.
    """
    if isinstance(split, Dataset):
        if not len(split):
            raise DataError(f"split {name} is empty")
        return dict(split.features)
    features = split.features or {}
    for column, feature in features.items():
        if isinstance(feature, DECODING):
            split = split.cast_column(column, without_decoding(feature))
    with as_data_error(name):
        row = next(iter(split.take(1)), None)
    if row is None:
        raise DataError(f"split {name} is empty")
    return dict(features) or {key: feature_of(value) for key, value in row.items()}


def feature_of(value: Any) -> Any:
    """The feature of a value, for rows that do not say it."""
    if value is None:
        return Value("null")
    if isinstance(value, PILImage) or (isinstance(value, dict) and {"bytes", "path"} & set(value)):
        return datasets.Image(decode=False)
    kinds = {bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary"}
    return Value(kinds[type(value)]) if type(value) in kinds else type(value)


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
    column = chosen(options)[1]
    found = {name: features[column] for name, features in columns.items() if column in features}
    for name, feature in found.items():
        if not may_be_label(feature):
            raise LabelError(
                f"column {column} of split {name} holds {kind_of(feature)}; labels are {KINDS}; choose with "
                "--label_column"
            )
    named = {
        name: check_class_names(feature.names, f"column {column} of split {name}")
        for name, feature in found.items()
        if isinstance(feature, ClassLabel)
    }
    if named:
        return common_names(named)
    texts = [name for name, feature in found.items() if is_text(feature)]
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
    found_texts = [text for name in texts for text in label_values(source.splits[name], column).unique().to_pylist()]
    return class_names(found_texts) or None


def common_names(named: Mapping[str, list[str]]) -> list[str]:
    """The class names of all splits, refused where they differ."""
    (first_name, first), *others = named.items()
    for name, names in others:
        if names != first:
            pairs = enumerate(zip(first, names, strict=False))
            what = f"{len(first)} and {len(names)} classes"
            what = next((f"class {at}: {one!r}, {two!r}" for at, (one, two) in pairs if one != two), what)
            raise LabelError(f"splits {first_name} and {name} differ in their label names ({what}); save them alike")
    return first


def label_values(split: AnyDataset, column: str) -> pa.ChunkedArray:
    """A column as it is stored."""
    return split.select_columns([column]).with_format("arrow")[:].column(column)  # type: ignore[index, call-overload]


def unify(
    split: AnyDataset,
    name: str,
    features: Features,
    *,
    names: list[str] | None,
    options: RecipeOptions,
    inputs: Inputs = IMAGES,
) -> AnyDataset:
    """The split with the input's columns (undecoded) and, where it has labels, `label` (`int64`, -1 for none).

    Args:
        split (`Dataset` or `IterableDataset`): as it was found.
        name (`str`): of the split, for messages.
        features (`Features`): what [`check_columns`] gave.
        names (`list[str]`, *optional*): the classes; labels must be below their number.
        options ([`RecipeOptions`]): `input_column` and `label_column`.
        inputs ([`Inputs`], *optional*): what the input column holds; images when unset.

    Raises:
        [`LabelError`]: a label is out of range or no known name; the message has row and value.
            Of a stream it comes when the row is read.
    """
    source, label = chosen(options)
    columns = {source: inputs.column} | {name: name for name in inputs.further if name in features}
    if isinstance(split, IterableDataset):
        return _unify_stream(split, name, features, chosen=(columns, label), names=names, inputs=inputs)
    numbers = None
    if label in features:
        numbers = class_numbers(label_values(split, label), features[label], names, name)
    split = split.select_columns(list(columns)).rename_columns(columns)
    if inputs.feature(features[source]) != features[source]:
        split = split.cast_column(inputs.column, inputs.feature(features[source]))
    return split if numbers is None else split.add_column("label", numbers)  # type: ignore[call-arg, arg-type]


def _unify_stream(
    split: IterableDataset,
    name: str,
    features: Features,
    *,
    chosen: tuple[Mapping[str, str], str],
    names: list[str] | None,
    inputs: Inputs,
) -> IterableDataset:
    """As [`unify`]; `chosen` are the data set's input columns with the names that they get, and its label column."""
    columns, label = chosen
    keep = [column for column in (*columns, label) if column in features]
    target = {new: features[column] for column, new in columns.items()}
    stored = inputs.feature(target[inputs.column])
    # `datasets` asks for torchcodec where a stream holds sounds or videos.
    stored = FILE if isinstance(stored, datasets.Audio | datasets.Video) else stored
    target[inputs.column] = stored
    target |= {"label": Value("int64")} if label in features else {}
    source = next(iter(columns))
    if split.features and isinstance(features[source], DECODING):
        split = split.cast_column(source, stored)
    renamed = {new: (column, inputs.cell if new == inputs.column else as_it_is) for column, new in columns.items()}
    row_of = partial(_stream_row, columns=renamed, label=label, split=name, names=names)
    return split.select_columns(keep).map(row_of, with_indices=True, remove_columns=keep, features=Features(target))


def _stream_row(
    row: dict[str, Any],
    index: int,
    *,
    columns: Mapping[str, tuple[str, Callable[[Any], Any]]],
    label: str,
    split: str,
    names: list[str] | None,
) -> dict[str, Any]:
    made = {new: cell(row[column]) for new, (column, cell) in columns.items()}
    if label in row:
        made["label"] = class_number(row[label], names, row=f"{split} row {index}")
    return made


def check_classes(split: AnyDataset, name: str, classes: int) -> None:
    """Refuse labels of a unified split that are none of so many classes; a stream is left unread.

    Raises:
        [`LabelError`]: names split, row and value, and the classes that there are.
    """
    if isinstance(split, Dataset) and "label" in split.column_names:
        class_numbers(label_values(split, "label"), split.features["label"], None, name, classes)


def has_labels(split: AnyDataset, column: str = "label") -> bool:
    """Whether any row has a label; of a stream, any of its first 1,000 rows."""
    if split.features is not None and column not in split.features:
        return False
    if split.features is not None and not may_be_label(split.features[column]):
        return True
    if isinstance(split, Dataset):
        return any(_is_label(value) for value in label_values(split, column).unique().to_pylist())
    return any(_is_label(row[column]) for row in split.select_columns([column]).take(LOOK_AT))


def _is_label(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None and value >= 0
