"""One split with an image and a mask in every row: columns, class names, and a look at the masks before training."""

from __future__ import annotations

import sys
from functools import partial, reduce
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from tqdm.auto import tqdm

from ..config.options import RecipeOptions
from ..errors import DataError, LabelError
from .columns import LOOK_AT, AnyDataset, chosen
from .images import BAR_FROM, image_size
from .inputs import IMAGES, Inputs, is_array, kind_of, may_be_image
from .label_names import given_names, names_beside
from .masks import MOST_CLASSES, REDUCE, check_mask, is_nothing, read_mask
from .sources import Source


def find_mask_names(columns: dict[str, Features], source: Source, options: RecipeOptions) -> list[str] | None:
    """The names of the classes of masks: as `--label_names` gives them, else as they lie beside the data.

    Args:
        columns (`dict[str, Features]`): what [`check_columns`] found, by split.
        source ([`Source`]): where the data lies.
        options ([`RecipeOptions`]): `label_column`, `label_names` and `reduce_labels`.

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
    names: list[str] | None,
    options: RecipeOptions,
    inputs: Inputs = IMAGES,
) -> AnyDataset:
    """The split with the columns `image` and, where it has masks, `label`, both undecoded (null for no mask).

    With `--reduce_labels` a column of the same name says of each row that its mask is to be reduced when it is read:
    by [`read_mask`] and nowhere else, so that it is done once.

    Args:
        split (`Dataset` or `IterableDataset`): as it was found.
        name (`str`): of the split, as for [`unify`].
        features (`Features`): what [`check_columns`] gave.
        names (`list[str]`, *optional*): as for [`unify`]; numbers are checked when masks are.
        options ([`RecipeOptions`]): `input_column`, `label_column` and `reduce_labels`.
        inputs ([`Inputs`], *optional*): masks are of images.
    """
    roles = zip(chosen(options), ("image", "label"), strict=True)
    found = {column: role for column, role in roles if column in features and not _is_null(features[column])}
    kinds = {role: features[column] for column, role in found.items()}
    undecoded = {role: kind if is_array(kind) else datasets.Image(decode=False) for role, kind in kinds.items()}
    reduced = {REDUCE: Value("bool")} if options.reduce_labels and "label" in kinds else {}
    if isinstance(split, IterableDataset):
        for column in found if split.features else ():
            if isinstance(features[column], datasets.Image):
                split = split.cast_column(column, datasets.Image(decode=False))
        row_of = partial(_stream_row, found=found, reduced=bool(reduced))
        target = Features({**undecoded, **reduced})
        return split.select_columns(list(found)).map(row_of, remove_columns=list(found), features=target)
    split = split.select_columns(list(found)).rename_columns(found)
    for role, kind in undecoded.items():
        split = split.cast_column(role, kind)
    return split.add_column(REDUCE, np.ones(len(split), dtype=bool)) if reduced else split  # type: ignore[call-arg, arg-type]


def _is_null(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype == "null"


def _stream_row(row: dict[str, Any], *, found: dict[str, str], reduced: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for column, role in found.items():
        value = row[column]
        if isinstance(value, bytes | str):
            value = {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}
        made[role] = value
    return made | ({REDUCE: True} if reduced else {})


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
        read.

    Raises:
        [`DataError`]: a mask is unreadable; names split and row, as the next.
        [`LabelError`]: a mask of another size than its image, or with a number that is no class.
    """
    if isinstance(dataset, IterableDataset):
        return dataset, 0, "none before training, each in its batch"
    if "label" not in dataset.column_names:
        return dataset, 0, "there are none"
    total = len(dataset)
    rows = range(total) if total <= limit else np.linspace(0, total - 1, limit).astype(int).tolist()
    covers = "all" if total <= limit else f"{limit:,} of {total:,} before training, the others in their batches"
    bad: list[int] = []
    bar = tqdm(rows, f"Checking masks of {split_name}", disable=len(rows) < BAR_FROM, file=sys.stderr, leave=False)
    for row in bar:
        try:
            _check_row(dataset[row], classes)
        except LabelError as error:
            raise LabelError(f"{split_name} row {row}: {error}") from None
        except DataError as error:
            if on_bad_row == "raise":
                raise DataError(
                    f"{split_name} row {row}: its mask: {error}. Repair or remove it, or leave such rows out with "
                    "--on_bad_row skip"
                ) from None
            bad.append(row)
    if len(bad) == total:
        raise DataError(f"{split_name}: none of its {total} masks is readable")
    leave_out = set(bad)
    kept = dataset.select([row for row in range(total) if row not in leave_out]) if bad else dataset
    return kept, len(bad), covers


def _check_row(row: dict[str, Any], classes: int | None) -> None:
    mask = read_mask(row)
    if mask is not None:
        check_mask(mask, image_size(row["image"]), classes)
