"""What peers see of a row: its columns, what they may hold, and how they are decoded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import datasets
import numpy as np
from datasets import Dataset, IterableDataset, Value
from PIL import Image
from tqdm.auto import tqdm

from ..errors import DataError
from .file_columns import as_file, may_be_files
from .images import BAR_FROM, decode_image, sixteen_bit_peak, too_dark

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)


def anything(feature: Any) -> bool:
    """Every feature may hold it."""
    return True


def nothing(feature: Any) -> bool:
    """No feature says that it holds it."""
    return False


def no_files() -> Collection[str]:
    """Class folders hold none of it."""
    return ()


def as_it_is(value: Any) -> Any:
    """A feature or cell that needs no change."""
    return value


@dataclass(frozen=True)
class Inputs:
    """
    The inputs of a task.

    Args:
        column (`str`): what the rows of a run call the input; `--input_column` says what a data set calls it.
        noun (`str`): what messages call one.
        decode (`Callable`): makes of the cell, and of those of `further`, what the view and the peers' processors
            take; raises [`DataError`] where it cannot.
        blank (`Callable`): makes what stands in the place of an unreadable one.
        fits (`Callable`, *optional*): whether a feature of a data set may hold it; anything may when unset.
        further (`tuple[str, ...]`, *optional*): columns that are taken by these names where a data set has them;
            `decode` gets `None` where it has not.
        typical (`Callable`, *optional*): whether a feature holds nothing else, so that the only such column is found
            without being named; none does when unset.
        feature (`Callable`, *optional*): as what a feature is stored in the rows of a run.
        cell (`Callable`, *optional*): as what a cell of a stream is.
        peaks (`Callable`, *optional*): decodes a cell for a check, and gives the largest value of 16-bit grey in a
            list, empty for others; `decode` checks when unset.
        endings (`Callable`, *optional*): endings of the files that class folders hold, as `".png"`; none when unset.

    Example:

    ```python
    >>> TEXTS = Inputs(
    ...     "text", "text", decode=lambda text, pair: (text, pair), blank=lambda: ("", ""), further=("text_pair",)
    ... )
    >>> TEXTS.read({"text": "a premise", "text_pair": "a hypothesis", "label": 1})
    ('a premise', 'a hypothesis')
    ```
    """

    column: str
    noun: str
    decode: Callable[..., Any]
    blank: Callable[[], Any]
    fits: Callable[[Any], bool] = anything
    further: tuple[str, ...] = ()
    typical: Callable[[Any], bool] = nothing
    feature: Callable[[Any], Any] = as_it_is
    cell: Callable[[Any], Any] = as_it_is
    peaks: Callable[[Any], list[int]] | None = None
    endings: Callable[[], Collection[str]] = no_files

    def read(self, row: Mapping[str, Any]) -> Any:
        """The input of a row, decoded.

        Raises:
            [`DataError`]: it cannot be read.
        """
        return self.decode(row[self.column], *(row.get(name) for name in self.further))


def kind_of(feature: Any) -> str:
    """What a column holds, for messages."""
    if isinstance(feature, Value):
        return feature.dtype
    return (feature if isinstance(feature, type) else type(feature)).__name__


def is_array(feature: Any) -> bool:
    """Whether a column holds arrays of numbers."""
    return isinstance(feature, datasets.Array2D | datasets.Array3D | datasets.List)


def may_be_image(feature: Any) -> bool:
    """Whether a column may hold images: image files, their paths, or arrays."""
    return may_be_files(feature, datasets.Image) or is_array(feature)


def _undecoded(feature: Any) -> Any:
    return feature if is_array(feature) else datasets.Image(decode=False)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _blank() -> Image.Image:
    return Image.new("RGB", (32, 32))


IMAGES = Inputs(
    "image",
    "image",
    decode_image,
    _blank,
    may_be_image,
    typical=_is_image,
    feature=_undecoded,
    cell=as_file,
    peaks=sixteen_bit_peak,
    endings=Image.registered_extensions,
)
"""Image files, their paths, arrays or tensors."""


def check_inputs(
    dataset: AnyDataset,
    split_name: str,
    on_bad_row: Literal["raise", "skip"] = "raise",
    limit: int = 10_000,
    inputs: Inputs = IMAGES,
) -> tuple[AnyDataset, int]:
    """Decode inputs before training, so that a damaged one does not end a run after hours.

    Args:
        dataset (`Dataset` or `IterableDataset`): with the inputs' columns; a stream is returned unread.
        split_name (`str`): for messages.
        on_bad_row (`str`, defaults to `"raise"`): `"skip"` leaves unreadable rows out.
        limit (`int`, defaults to 10000): the most rows to decode; of a larger split, evenly spaced ones. The collator
            meets the others with the same [`Inputs`].
        inputs ([`Inputs`], *optional*): what rows hold; images when unset.

    Returns:
        `tuple`: the data set, without the rows that were found unreadable, and their number.

    Raises:
        [`DataError`]: an input is unreadable (names split, row and, if known, path; rows are
            counted from 0 in the split as it is used), or with `"skip"` all are.
    """
    if isinstance(dataset, IterableDataset):
        return dataset, 0
    total = len(dataset)
    rows = range(total) if total <= limit else np.linspace(0, total - 1, limit).astype(int).tolist()
    bad: list[int] = []
    peaks: list[int] = []
    title = f"Checking {inputs.noun}s of {split_name}"
    bar = tqdm(rows, title, disable=len(rows) < BAR_FROM, file=sys.stderr, leave=False)
    for row in bar:
        try:
            cells = dataset[row]
            if inputs.peaks is None:
                inputs.read(cells)
            else:
                peaks += inputs.peaks(cells[inputs.column])
        except DataError as error:
            if on_bad_row == "raise":
                raise DataError(
                    f"{split_name} row {row}: {error}. Repair or remove it, or leave such rows out with "
                    "--on_bad_row skip"
                ) from None
            bad.append(row)
    if reason := too_dark(peaks):
        raise DataError(f"{split_name}: {reason}")
    if not bad:
        return dataset, 0
    if len(bad) == total:
        raise DataError(f"{split_name}: none of its {total} {inputs.noun}s is readable")
    leave_out = set(bad)
    return dataset.select([row for row in range(total) if row not in leave_out]), len(bad)
