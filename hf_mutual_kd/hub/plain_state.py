"""What a checkpoint keeps as pickles, as JSON and safetensors instead, and back, bit for bit."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_pt_utils import safe_globals

from ..errors import HubError

PICKLED = re.compile(r"(?:optimizer|scheduler|scaler)\.pt|rng_state(?:_\d{1,5})?\.pth")
"""Files of a checkpoint that are converted; no other pickle is ever read."""

OPAQUE = "roles.parquet"
"""A file that is no pickle, but no kind that a model repository should hold either."""


def is_convertible(name: str) -> bool:
    """Whether a checkpoint's file is one that [`write_plain`] takes."""
    return name == OPAQUE or PICKLED.fullmatch(name) is not None


def write_plain(source: Path, folder: Path) -> list[Path]:
    """Write `optimizer.pt` as `optimizer.pt.json` and, for its tensors, `optimizer.pt.safetensors`.

    Args:
        source (`Path`): a file of a checkpoint of one's own.
        folder (`Path`): where to write.

    Returns:
        `list[Path]`: the files.

    Raises:
        [`HubError`]: it holds an object that neither JSON nor safetensors can hold.
    """
    tensors: dict[str, Tensor] = {}
    plain = to_plain(_read(source), tensors, source.name)
    text = folder / f"{source.name}.json"
    text.write_text(json.dumps(plain) + "\n", encoding="utf-8")
    if not tensors:
        return [text]
    weights = folder / f"{source.name}.safetensors"
    save_file(tensors, str(weights))
    return [text, weights]


def read_plain(text: Path, folder: Path) -> Path:
    """Write back into `folder` the file that [`write_plain`] read; `text` is its JSON part.

    Raises:
        [`HubError`]: it is not what [`write_plain`] writes.
    """
    name = text.name.removesuffix(".json")
    weights = text.with_name(f"{name}.safetensors")
    try:
        tensors = load_file(str(weights)) if weights.is_file() else {}
        value = from_plain(json.loads(text.read_text(encoding="utf-8")), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise HubError(
            f"{text.name} of the pushed checkpoint is damaged ({type(error).__name__}); push it anew"
        ) from error
    target = folder / name
    if isinstance(value, bytes):
        target.write_bytes(value)
    else:
        torch.save(value, target)
    return target


def _read(source: Path) -> Any:
    if source.name == OPAQUE:
        return source.read_bytes()
    with safe_globals():
        return torch.load(source, map_location="cpu", weights_only=True)


def to_plain(value: Any, tensors: dict[str, Tensor], what: str = "the state") -> Any:
    """A value as JSON can hold it; tensors and arrays go to `tensors` and are named in their place.

    Example:

    ```python
    >>> tensors = {}
    >>> to_plain({0: (1.5, torch.ones(2))}, tensors), list(tensors)
    ({'dict': [[0, {'tuple': [1.5, {'tensor': '0'}]}]]}, ['0'])
    ```
    """
    if value is None or type(value) in (bool, int, str) or type(value) is float and math.isfinite(value):
        return value
    if type(value) is list:
        return [to_plain(item, tensors, what) for item in value]
    for kind, (classes, convert) in KINDS.items():
        if isinstance(value, classes):
            return {kind: convert(value, lambda item: to_plain(item, tensors, what), tensors)}
    raise HubError(f"{what} holds a {type(value).__name__}, which cannot be pushed; use hub_strategy 'every_save'")


def from_plain(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that [`to_plain`] was given."""
    if isinstance(plain, list):
        return [from_plain(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind in ("dict", "ordered"):
        pairs = [(from_plain(key, tensors), from_plain(item, tensors)) for key, item in content]
        return dict(pairs) if kind == "dict" else OrderedDict(pairs)
    if kind == "tuple":
        return tuple(from_plain(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    tensor = tensors[content]
    if kind == "tensor":
        return tensor
    array = tensor.numpy()
    return {"array": array, "scalar": array[()], "bytes": bytes(array)}[kind]


def _keep(tensors: dict[str, Tensor], tensor: Tensor) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().cpu().contiguous().clone()
    return name


Converter = Callable[[Any, Callable[[Any], Any], dict[str, Tensor]], Any]
KINDS: dict[str, tuple[type | tuple[type, ...], Converter]] = {
    "ordered": (OrderedDict, lambda value, plain, _: [[plain(key), plain(item)] for key, item in value.items()]),
    "dict": (dict, lambda value, plain, _: [[plain(key), plain(item)] for key, item in value.items()]),
    "tuple": (tuple, lambda value, plain, _: [plain(item) for item in value]),
    "float": (float, lambda value, plain, _: repr(float(value))),
    "tensor": (Tensor, lambda value, plain, tensors: _keep(tensors, value)),
    "array": (np.ndarray, lambda value, plain, tensors: _keep(tensors, torch.from_numpy(value.copy()))),
    "scalar": (np.generic, lambda value, plain, tensors: _keep(tensors, torch.from_numpy(np.array(value)))),
    "bytes": (
        bytes,
        lambda value, plain, tensors: _keep(tensors, torch.frombuffer(bytearray(value), dtype=torch.uint8)),
    ),
}
"""How each kind of value is written: its tag, its classes, and the conversion."""
