"""Processors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from ..errors import PeerError
from .channels import in_gray, sees_gray


class PeerInputs(dict):
    """`{peer: {name: tensor}}` in which peers may share tensors; `to` and `pin_memory` copy each tensor once."""

    def to(self, device: Any, non_blocking: bool = False) -> PeerInputs:
        """Move all tensors to `device`, shared ones together."""
        return self._each_once(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PeerInputs:
        """Page-lock all tensors, shared ones together; data loaders call it."""
        return self._each_once(Tensor.pin_memory)

    def _each_once(self, change: Callable[[Tensor], Tensor]) -> PeerInputs:
        changed: dict[int, Tensor] = {}
        for inputs in self.values():
            for tensor in inputs.values():
                if id(tensor) not in changed:
                    changed[id(tensor)] = change(tensor)
        return PeerInputs(
            {peer: {key: changed[id(tensor)] for key, tensor in inputs.items()} for peer, inputs in self.items()}
        )


class PeerProcessors:
    """Every peer's processor, run once for all peers whose processors agree.

    Args:
        processors (`dict[str, Any]`): per peer an image processor or a callable `images -> {name: [B, ...]}`.

    Raises:
        [`PeerError`]: a peer has none.
    """

    noun = "image processor"
    """What messages call one."""
    makes = "images -> {'pixel_values': [B, 3, H, W]}"
    """What a callable in the place of one does."""
    fixed_size = False
    """Whether all batches have one size, where inputs differ in theirs."""

    def __init__(self, processors: Mapping[str, Any]):
        self.groups: list[tuple[Any, list[str]]] = []
        by_settings: dict[str, list[str]] = {}
        for name, processor in processors.items():
            if not callable(processor):
                raise PeerError(
                    f"peer {name!r} has no {self.noun}; give PeerSpec(processor=ID_OR_FOLDER), or a module its "
                    f"attribute `processor`: a callable {self.makes}"
                )
            key = settings_of(processor)
            if key not in by_settings:
                by_settings[key] = []
                self.groups.append((processor, by_settings[key]))
            by_settings[key].append(name)
        self.names = list(processors)

    def __call__(self, images: Sequence[Any]) -> PeerInputs:
        inputs: dict[str, Mapping[str, Tensor]] = {}
        for processor, names in self.groups:
            inputs.update(dict.fromkeys(names, self.run(processor, images)))
        return PeerInputs({name: inputs[name] for name in self.names})

    def keep(self, names: Collection[str]) -> None:
        """Run only those of these peers from now on."""
        # What is found out of all of them, as the size at which frames are decoded, stays.
        getattr(self, "max_side", None), self.longest_side
        kept = [(processor, [name for name in group if name in names]) for processor, group in self.groups]
        self.groups = [(processor, group) for processor, group in kept if group]
        self.names = [name for name in self.names if name in names]

    @cached_property
    def longest_side(self) -> int | None:
        """The longest side in pixels to which a processor resizes; `None` where one does not say it."""
        found = [resized_side(processor) for processor, _ in self.groups]
        return max(side for side in found if side) if found and all(found) else None

    def run(self, processor: Any, images: Sequence[Any]) -> dict[str, Tensor]:
        """What one processor makes of the images."""
        if sees_gray(processor):
            images = [in_gray(image) for image in images]
        return dict(processor(images) if is_plain(processor) else processor(images=images, return_tensors="pt"))


def is_plain(processor: Any) -> bool:
    """Whether it is a callable of the user's, not a processor of transformers."""
    return not hasattr(processor, "save_pretrained")


def resized_side(processor: Any) -> int | None:
    """The longest side in pixels to which an image processor may resize; `None` where it does not say it.

    Some resize to an eighth more than they say, and cut that out.

    Example:

    ```python
    >>> resized_side(ViTImageProcessor(size={"height": 224, "width": 224}))
    256
    ```
    """
    if is_plain(processor) or not getattr(processor, "do_resize", False):
        return None
    sizes = [getattr(processor, name, None) or {} for name in ("size", "crop_size")]
    sides = [side for size in sizes for side in dict(size).values() if side]
    return math.ceil(max(sides) / (getattr(processor, "crop_pct", None) or 7 / 8)) if sides else None


def settings_of(processor: Any) -> str:
    """A text that is equal for processors that make equal tensors."""
    found = settings(processor)
    return f"object {id(processor)}" if found is None else json.dumps(found, sort_keys=True, default=str)


def settings(processor: Any) -> dict[str, Any] | None:
    """What a processor of transformers was set to; of a tokenizer also all its tokens. `None` of other callables."""
    if hasattr(processor, "to_dict"):
        return processor.to_dict()
    if not hasattr(processor, "get_vocab"):
        return None
    kept = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "special_tokens_map")
    found = {key: getattr(processor, key) for key in kept} | {"tokens": processor.get_vocab()}
    if hasattr(processor, "backend_tokenizer"):
        # How the last batch was cut and padded is no setting.
        rules = json.loads(processor.backend_tokenizer.to_str())
        found |= {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    return found
