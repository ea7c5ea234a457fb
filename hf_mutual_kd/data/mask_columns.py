"""One split with an image and a mask in every row: columns, class names, and a look at the masks before training."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from tqdm.auto import tqdm

from ..config.task_options import MaskOptions
from ..errors import DataError, LabelError
from .columns import LOOK_AT, AnyDataset, chosen
from .images import BAR_FROM, image_size
from .inputs import IMAGES, Inputs, is_array, kind_of, may_be_image
from .label_names import given_names, names_beside
from .masks import COLORS, IGNORE, IS_COLOR, MOST_CLASSES, REDUCE, check_mask, decode_mask, is_nothing, read_mask
from .sources import Source

TOLD = {REDUCE: Value("bool"), COLORS: datasets.List(Value("int64"))}
"""Columns that say of each row how its mask is read."""
COLOR = re.compile(r"(?P<grey>\d{1,5})|#(?P<color>[0-9a-fA-F]{6})")


def find_mask_names(columns: dict[str, Features], source: Source, options: MaskOptions) -> list[str] | None:
    """The names of the classes of masks: as `--label_names` gives them, else as they lie beside the data.

    Args:
        columns (`dict[str, Features]`): what [`check_columns`] found, by split.
        source ([`Source`]): where the data lies.
        options ([`MaskOptions`]): `label_column`, `label_names` and `reduce_labels`.

    Returns:
        `list[str]` of the classes after `reduce_labels`, or `None`: then the peers' own names count.

    Raises:
        [`LabelError`]: a column that holds no masks, more classes than there are numbers, or
            names that are none.
    """
    column = options.label_column
    for name, features in columns.items():
        if column in features and not (may_be_image(features[column]) or _is_null(features[column])):
            raise LabelError(
                f"column {column} of split {name} holds {kind_of(features[column])}, no masks; they are images of one "
                "channel, their paths, or arrays [H, W]; choose with --label_column"
            )
    names = given_names(options) or names_beside(source, options)
    if names is not None and len(names) > MOST_CLASSES:
        raise LabelError(f"masks of {len(names)} classes are not read: 0 to 254 are classes, 255 is what is ignored")
    return names


def unify_masks(
    split: AnyDataset,
    name: str,
    features: Features,
    *,
    names: list[str] | None,
    options: MaskOptions,
    inputs: Inputs = IMAGES,
) -> AnyDataset:
    """The split with the columns `image` and, where it has masks, `label`, both undecoded (null for no mask).

    With `--reduce_labels` and `--label_colors` a column of the same name says of each row how its mask is to be read:
    by [`read_mask`] and nowhere else, so that it is done once.

    Args:
        split (`Dataset` or `IterableDataset`): as it was found.
        name (`str`): of the split, as for [`unify`].
        features (`Features`): what [`check_columns`] gave.
        names (`list[str]`, *optional*): as for [`unify`]; numbers are checked when masks are.
        options ([`MaskOptions`]): `input_column`, `label_column` and `reduce_labels`.
        inputs ([`Inputs`], *optional*): masks are of images.
    """
    roles = zip(chosen(options), ("image", "label"), strict=True)
    found = {column: role for column, role in roles if column in features and not _is_null(features[column])}
    kinds = {role: features[column] for column, role in found.items()}
    undecoded = {role: kind if is_array(kind) else datasets.Image(decode=False) for role, kind in kinds.items()}
    told: dict[str, Any] = {}
    if "label" in kinds:
        told |= {REDUCE: True} if options.reduce_labels else {}
        told |= {COLORS: numbers_of(options.label_colors, names)} if options.label_colors else {}
    told_kinds = {column: TOLD[column] for column in told}
    if isinstance(split, IterableDataset):
        for column in found if split.features else ():
            if isinstance(features[column], datasets.Image):
                split = split.cast_column(column, datasets.Image(decode=False))
        row_of = partial(_stream_row, found=found, told=told)
        target = Features({**undecoded, **told_kinds})
        return split.select_columns(list(found)).map(row_of, remove_columns=list(found), features=target)
    split = split.select_columns(list(found)).rename_columns(found)
    for role, kind in undecoded.items():
        split = split.cast_column(role, kind)
    for column, value in told.items():
        split = with_told(split, column, value)
    return split


def with_told(split: Dataset, column: str, value: Any) -> Dataset:
    """The split with a column that says the same of every mask."""
    values = pa.array([value] * len(split))
    return split.add_column(column, values, feature=TOLD[column])  # type: ignore[call-arg, arg-type]


def numbers_of(colors: Sequence[str], names: Sequence[str] | None) -> list[int]:
    """
    What stands for each class, as [`of_colors`] takes it.

    Raises:
        [`LabelError`]: neither greys nor colors, both, twice the same, or not one for each class.

    Example:

    ```python
    >>> numbers_of(["0", "255"], ["ground", "roof"])
    [0, 255]
    ```
    """
    found = []
    for color in colors:
        shape = COLOR.fullmatch(str(color))
        if shape is None:
            raise LabelError(f"label_colors: expected greys 0 to 65535 or colors such as #80ff00, got {color!r}")
        found.append(int(shape["grey"]) if shape["grey"] else int(shape["color"], 16) + IS_COLOR)
    if len({number >= IS_COLOR for number in found}) > 1:
        raise LabelError("label_colors holds greys and colors; write all as one kind: grey 128 is #808080")
    if len(set(found)) < len(found):
        twice = next(color for color, number in zip(colors, found, strict=True) if found.count(number) > 1)
        raise LabelError(f"label_colors names {twice} twice; every class has its own")
    if names is not None and len(names) != len(found):
        raise LabelError(f"label_colors names {len(found)} colors, but there are {len(names)} classes")
    return found


def _is_null(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype == "null"


def _stream_row(row: dict[str, Any], *, found: dict[str, str], told: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for column, role in found.items():
        value = row[column]
        if isinstance(value, bytes | str):
            value = {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}
        made[role] = value
    return made | told


def has_masks(split: AnyDataset, column: str = "label") -> bool:
    """Whether any row has a mask; of a stream, any of its first 1,000 rows."""
    if split.features is not None and column not in split.features:
        return False
    if isinstance(split, Dataset):
        return bool(rows_with_mask(split, column).any())
    if split.features is not None and isinstance(split.features[column], datasets.Image):
        split = split.cast_column(column, datasets.Image(decode=False))
    return any(not is_nothing(row[column]) for row in split.select_columns([column]).take(LOOK_AT))


def has_mask_column(split: Dataset) -> bool:
    """Whether the labels of a unified split are masks."""
    return "label" in split.column_names and not isinstance(split.features["label"], Value | ClassLabel)


def rows_with_mask(split: Dataset, column: str = "label") -> np.ndarray:
    """`[rows]` bool: which rows have a mask."""
    parts = [np.zeros(0, dtype=bool)]
    for batch in split.select_columns([column]).with_format("arrow").iter(batch_size=LOOK_AT):
        cells = batch[column]  # type: ignore[call-overload]
        there = [cells.is_valid()]
        if pa.types.is_struct(cells.type):
            names = [cells.type.field(index).name for index in range(cells.type.num_fields)]
            filled = [_filled(pc.struct_field(cells, name)) for name in ("bytes", "path") if name in names]
            there.append(reduce(pc.or_, filled))
        parts.append(np.asarray(reduce(pc.and_, there)))
    return np.concatenate(parts)


def _filled(values: Any) -> Any:
    """Which texts or bytes are there and not empty."""
    if pa.types.is_null(values.type):
        return values.is_valid()
    return pc.fill_null(pc.greater(pc.binary_length(values), 0), False)


def check_masks(
    dataset: AnyDataset,
    split_name: str,
    classes: int | None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    limit: int = 10_000,
) -> tuple[AnyDataset, int, str]:
    """Read masks before training: each must be of its image's size and hold nothing but classes.

    Args:
        dataset (`Dataset` or `IterableDataset`): with columns `image` and `label`; a stream is returned unread.
        split_name (`str`): for messages.
        classes (`int`, *optional*): how many there are.
        on_bad_row (`str`, defaults to `"raise"`): `"skip"` leaves rows out whose mask is unreadable.
        limit (`int`, defaults to 10000): the most masks to read; of a larger split, evenly spaced ones. The collator
            meets all with the same check.

    Returns:
        `tuple`: the data set without the rows that were found unreadable, their number, and in words which masks were
        read and what was decided.

    Raises:
        [`DataError`]: a mask is unreadable; names split and row, as the next.
        [`LabelError`]: a mask of another size than its image, or with a number that is no class; masks in which 255
            may be a class or what is ignored; a split with masks whose pixels are all ignored.
    """
    if isinstance(dataset, IterableDataset):
        return dataset, 0, "none before training, each in its batch"
    if "label" not in dataset.column_names:
        return dataset, 0, "there are none"
    total = len(dataset)
    rows = range(total) if total <= limit else np.linspace(0, total - 1, limit).astype(int).tolist()
    covers = "all" if total <= limit else f"{limit:,} of {total:,} before training, the others in their batches"
    bad: list[int] = []
    found: set[int] = set()
    silent = 0
    bar = tqdm(rows, f"Checking masks of {split_name}", disable=len(rows) < BAR_FROM, file=sys.stderr, leave=False)
    for row in bar:
        try:
            held = _check_row(dataset[row], classes)
        except LabelError as error:
            raise LabelError(f"{split_name} row {row}: {error}") from None
        except DataError as error:
            if on_bad_row == "raise":
                raise DataError(
                    f"{split_name} row {row}: its mask: {error}. Repair or remove it, or leave such rows out with "
                    "--on_bad_row skip"
                ) from None
            bad.append(row)
            continue
        silent += not held
        found |= held
    if len(bad) == total:
        raise DataError(f"{split_name}: none of its {total} masks is readable")
    _check_values(found, silent, split_name, classes, dataset)
    if silent:
        covers += f"; {silent:,} rows have no mask or one that is ignored everywhere, and learn by transfer alone"
    leave_out = set(bad)
    kept = dataset.select([row for row in range(total) if row not in leave_out]) if bad else dataset
    return kept, len(bad), covers


def _check_values(found: set[int], silent: int, name: str, classes: int | None, rows: Dataset) -> None:
    masked = rows_with_mask(rows).any()
    if masked and not found:
        way = "leave out --reduce_labels, or " if REDUCE in rows.column_names else ""
        raise LabelError(
            f"{name}: every pixel of its masks is ignored, so that there is no truth; {way}name what stands for each "
            "class by --label_colors, or give another split"
        )
    if classes in (2, None) and found == {0, IGNORE} and not set(TOLD) & set(rows.column_names):
        raise LabelError(
            f"{name}: its masks hold 0 and 255 alone, and 255 may be a class or what is ignored; say which by "
            "--label_colors 0 255 (two classes), or 0 1 (255 is ignored)"
        )


def settle_binary(rows: dict[str, AnyDataset], classes: int | None, look_at: int = 200) -> dict[str, AnyDataset]:
    """
    Splits of two classes whose masks hold 0 and 255 alone, with 255 read as the second class; others as they are.

    It is how binary masks are stored most often. Where a 1 occurs too, 255 is what is ignored, as everywhere.

    Args:
        rows (`dict[str, Dataset]`): unified splits by role.
        classes (`int`, *optional*): how many there are; nothing is decided unless it is 2.
        look_at (`int`, *optional*, defaults to 200): masks of each split that are looked at, evenly spaced.
    """
    if classes != 2 or not all(_is_plain(split) for split in rows.values()):
        return rows
    held: set[int] = set()
    for split in rows.values():
        numbers = np.flatnonzero(rows_with_mask(split))
        for row in numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), look_at)).astype(int)]:
            try:
                held |= set(np.unique(decode_mask(split[int(row)]["label"])).tolist())
            except DataError:
                continue  # Named, or left out, when all are checked.
    if held != {0, IGNORE}:
        return rows
    return {role: with_told(split, COLORS, [0, IGNORE]) for role, split in rows.items()}


def _is_plain(split: AnyDataset) -> bool:
    return isinstance(split, Dataset) and "label" in split.column_names and not set(TOLD) & set(split.column_names)


def _check_row(row: dict[str, Any], classes: int | None) -> set[int]:
    """The numbers that a mask holds after a check; none where there is no mask, or nothing but what is ignored."""
    mask = read_mask(row)
    if mask is None:
        return set()
    check_mask(mask, image_size(row["image"]), classes)
    return set(mask.unique().tolist())
