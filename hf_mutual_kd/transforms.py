"""One shared random view for all peers, then each peer's own processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from .errors import PeerError

MIX = 0x9E3779B97F4A7C15
MASK = 0x7FFFFFFFFFFFFFFF


class SharedView:
    """One random crop, flip and colour draw per sample, the same whatever peer, worker or process looks at it.

    The draw depends on the seed, the epoch and the sample id alone. The crop keeps its own size: each peer's
    processor resizes it.

    Args:
        min_area (`float`, *optional*, defaults to 0.6): smallest share of the image's area that a crop keeps.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the images.
        color_jitter (`float`, *optional*, defaults to 0.0): strength of brightness, contrast and saturation changes.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Example:

    ```python
    >>> view = SharedView(min_area=0.6, seed=0)
    >>> view(image, sample_id=17, epoch=2)  # the same crop and flip in every process
    ```
    """

    def __init__(self, min_area: float = 0.6, flip: bool = True, color_jitter: float = 0.0, seed: int = 0):
        self.min_area, self.flip, self.seed = min_area, flip, seed
        strength = (color_jitter,) * 3
        self.color = v2.ColorJitter(*strength) if color_jitter else None

    def __call__(self, image: Image.Image, sample_id: int, epoch: int) -> Image.Image:
        with draws_of(self.seed, epoch, sample_id):
            top, left, height, width = v2.RandomResizedCrop.get_params(image, [self.min_area, 1.0], [3 / 4, 4 / 3])
            image = vision.crop(image, top, left, height, width)
            if self.flip and torch.rand(()) < 0.5:
                image = vision.horizontal_flip(image)
            return self.color(image) if self.color is not None else image


@contextmanager
def draws_of(seed: int, epoch: int, sample_id: int) -> Iterator[None]:
    """Inside, torch draws what depends on these three alone; outside, nothing has been drawn."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the GPUs, whose state is not put back.
        torch.default_generator.manual_seed((seed * 1_000_003 + epoch * 7_919 + sample_id * MIX) & MASK)
        yield


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
        [`~hf_mutual_kd.errors.PeerError`]: a peer has none.
    """

    def __init__(self, processors: Mapping[str, Any]):
        self.groups: list[tuple[Any, list[str]]] = []
        by_settings: dict[str, list[str]] = {}
        for name, processor in processors.items():
            if not callable(processor):
                raise PeerError(
                    f"peer {name!r} has no image processor; give PeerSpec(processor=ID_OR_FOLDER), or a module its "
                    "attribute `processor`: a callable images -> {'pixel_values': [B, 3, H, W]}"
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

    def run(self, processor: Any, images: Sequence[Any]) -> dict[str, Tensor]:
        """What one processor makes of the images."""
        return dict(processor(images) if is_plain(processor) else processor(images=images, return_tensors="pt"))


def is_plain(processor: Any) -> bool:
    """Whether it is a callable of the user's, not a processor of transformers."""
    return not hasattr(processor, "save_pretrained")


def settings_of(processor: Any) -> str:
    """A text that is equal for processors that make equal tensors."""
    if not hasattr(processor, "to_dict"):
        return f"object {id(processor)}"
    return json.dumps(processor.to_dict(), sort_keys=True, default=str)
