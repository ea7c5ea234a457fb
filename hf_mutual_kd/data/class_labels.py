"""Labels that say the class of a row: however they are stored, as whole numbers, -1 for none, or refused by row."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Value

from ..config.values import nearest
from ..distillation.label_alignment import by_number
from ..errors import LabelError

NO_LABEL = -1
IGNORED = -100
"""What the losses of torch pass over: no label, too."""
KINDS = "whole numbers, class labels, text, or true and false (lists of classes: a multi-label task)"


def is_text(feature: Any) -> bool:
    """Whether a column holds text."""
    return isinstance(feature, Value) and feature.dtype.removeprefix("large_") == "string"


def may_be_label(feature: Any) -> bool:
    """Whether a column may hold classes."""
    if isinstance(feature, ClassLabel) or is_text(feature):
        return True
    return isinstance(feature, Value) and feature.dtype.lstrip("u").startswith(("int", "float", "bool", "null"))


def class_names(texts: Sequence[str | None]) -> list[str]:
    """The classes that a column of text names, numbers in them in the order of numbers; an empty text is none."""
    return sorted({_composed(text) for text in texts if text and text.strip()}, key=by_number)


def check_class_names(names: Sequence[str], where: str) -> list[str]:
    """These names in composed Unicode, each different and none empty.

    Raises:
        [`LabelError`]: a name that is empty or there twice.
    """
    composed = [_composed(name) for name in names]
    wrong = next((at for at, name in enumerate(composed) if not name.strip() or name in composed[:at]), None)
    if wrong is not None:
        what = f"is there twice ({names[wrong]!r})" if composed[wrong].strip() else "is empty"
        raise LabelError(f"{where}: the name of class {wrong} {what}; classes need different names")
    return composed


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def class_number(value: Any, names: Sequence[str] | None, classes: int | None = None, row: str = "") -> int:
    """
    One label as the number of its class, -1 for none.

    Args:
        value: a whole number, also as a float, a bool, an array or tensor of one number; a name of `names`; null, NaN,
            an empty text, -1 or -100 for no label.
        names (`list[str]`, *optional*): the classes, for labels that are text.
        classes (`int`, *optional*): how many there are, where they have no names.
        row (`str`): which row it is, for messages.

    Raises:
        [`LabelError`]: it is something else, no known name, or out of range.

    Example:

    ```python
    >>> class_number(2.0, None), class_number("owl", ["cat", "owl"]), class_number(float("nan"), None)
    (2, 1, -1)
    ```
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, str):
        return _number_of(value, names, row)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NO_LABEL
    if not isinstance(value, bool | int | float):
        shown = f"a {type(value).__name__}{list(value.shape) if hasattr(value, 'shape') else f' ({value!r:.40})'}"
        raise LabelError(f"{row}: the label is {shown}; a row has one class, as one of {KINDS}")
    if not math.isfinite(value) or value != int(value):
        raise LabelError(f"{row}: label {value!r} is no whole number, so no class")
    number, classes = int(value), classes or len(names or ()) or None
    if number == IGNORED:
        return NO_LABEL
    if number < NO_LABEL or (classes is not None and number >= classes):
        raise _out_of_range(row, number, classes)
    return number


def _number_of(text: str, names: Sequence[str] | None, row: str) -> int:
    if not text.strip():
        return NO_LABEL
    if names is None:
        raise LabelError(f"{row}: label {text!r} is text, and nobody says the names of the classes (label_names)")
    if _composed(text) not in names:
        raise LabelError(f"{row}: {text!r} is none of the label names{nearest(text, names)}")
    return list(names).index(_composed(text))


def class_numbers(
    values: pa.ChunkedArray, feature: Any, names: Sequence[str] | None, split: str, classes: int | None = None
) -> np.ndarray:
    """
    A column of labels as whole numbers, `[rows]` of `int64`, -1 for none; see [`class_number`].

    Args:
        values (`pa.ChunkedArray`): as they are stored.
        feature: what the data set says that they are, of which [`may_be_label`] holds.
        names (`list[str]`, *optional*): the classes, for labels that are text.
        split (`str`): for messages.
        classes (`int`, *optional*): how many there are, where they have no names.
    """
    if is_text(feature):
        known: dict[str | None, int] = {None: NO_LABEL}
        for row, text in enumerate(texts := values.to_pylist()):
            if text not in known:
                known[text] = _number_of(text, names, f"{split} row {row}")
        return np.array([known[text] for text in texts], dtype=np.int64)
    if pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64()).fill_null(math.nan).to_numpy()
        wrong = ~np.isnan(numbers) & ~((np.floor(numbers) == numbers) & (abs(numbers) < 2**53))
        if wrong.any():
            row = int(wrong.argmax())
            raise LabelError(f"{split} row {row}: label {numbers[row]} is no whole number, so no class")
        numbers = np.where(np.isnan(numbers), NO_LABEL, numbers).astype(np.int64)
    else:
        if pa.types.is_uint64(values.type):
            row = pc.index(pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())), True).as_py()
            if row >= 0:
                raise _out_of_range(f"{split} row {row}", values[row].as_py(), classes or len(names or ()) or None)
        numbers = values.cast(pa.int64()).fill_null(NO_LABEL).to_numpy()
    numbers = np.where(numbers == IGNORED, NO_LABEL, numbers)
    check_range(numbers, classes or len(names or ()) or None, split)
    return numbers


def check_range(numbers: np.ndarray, classes: int | None, split: str) -> None:
    """Refuse numbers `[rows]` that are neither -1 nor a class.

    Raises:
        [`LabelError`]: says row and value of the first, and the classes that there are.
    """
    wrong = (numbers < NO_LABEL) | (numbers >= (np.inf if classes is None else classes))
    if wrong.any():
        row = int(wrong.argmax())
        raise _out_of_range(f"{split} row {row}", int(numbers[row]), classes)


def _out_of_range(row: str, value: int, classes: int | None) -> LabelError:
    allowed = f"0 to {classes - 1}" if classes else "0 or more"
    return LabelError(f"{row}: label {value} is out of range: {allowed}, and -1 or null for no label")
