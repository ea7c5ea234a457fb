"""The tensor that counts among what a model returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

NAMES = ("logits", "out")
"""What transformers and torchvision call it."""


def logits_of(outputs: Any, dimensions: Collection[int]) -> Tensor | None:
    """
    The logits of any output, `None` where there are none of so many dimensions.

    Args:
        outputs: a tensor; an object or mapping with `logits` or `out`; a tuple or list, whose first tensor it is; an
            output of transformers whose only name is `last_hidden_state` (PP-LCNet's classes).
        dimensions (`Collection[int]`): how many the logits may have.

    Example:

    ```python
    >>> logits_of((torch.zeros(2, 3), torch.zeros(2, 64)), {2}).shape
    torch.Size([2, 3])
    ```
    """
    found: Any = outputs
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "logits"):
        found = next((one for one in outputs if isinstance(one, Tensor)), None)
    elif not isinstance(outputs, Tensor):
        named = (_named(outputs, name) for name in (*NAMES, "last_hidden_state"))
        found = next((one for one in named if one is not None), None)
    return found if isinstance(found, Tensor) and found.ndim in dimensions else None


def _named(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def described(outputs: Any) -> str:
    """What there is in an output, for messages."""
    if isinstance(outputs, Tensor):
        return f"a tensor {list(outputs.shape)}"
    listed = outputs if isinstance(outputs, tuple | list) else ()
    named: Any = outputs.items() if isinstance(outputs, Mapping) else enumerate(listed)
    parts = [f"{key}: {list(one.shape) if isinstance(one, Tensor) else type(one).__name__}" for key, one in named]
    return f"{type(outputs).__name__}({', '.join(parts)})"
