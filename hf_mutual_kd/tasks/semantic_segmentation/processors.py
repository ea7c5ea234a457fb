"""Peers' image processors for maps: the whole image, padded below and to the right, and where in it the image is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor

from ...data.channels import in_gray, sees_gray
from ...data.processors import PeerProcessors, is_plain
from ...errors import PeerError
from ..maps import padded
from .heads import with_task_input

IMAGE_KEYS = ("pixel_values", "pixel_mask")
"""What a model takes of a processor's output; the rest are labels and notes."""


def load_dense_processor(source: str, revision: str | None, code: dict[str, Any]) -> Any:
    """The processor of a segmentation checkpoint, so that it sees whole images, see [`whole_view`].

    Args:
        source (`str`): Hub id or folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        code (`dict`): `trust_remote_code`, for `from_pretrained`.

    Returns:
        An image processor; for OneFormer, which is told its task in words, its processor with tokenizer.

    Raises:
        `OSError` or `ValueError` where there is none, as `from_pretrained`.
        [`PeerError`]: as [`whole_view`].
    """
    config = AutoConfig.from_pretrained(source, revision=revision, **code)
    auto: Any = AutoProcessor if config.model_type == "oneformer" else AutoImageProcessor
    return whole_view(auto.from_pretrained(source, revision=revision, **code), source)


def whole_view(processor: Any, name: str) -> Any:
    """
    A processor that shows its peer the whole image, changed only where it would not.

    A centre crop is left out: labels cover the whole image. A processor that cuts images into overlapping squares
    (EoMT) resizes them into one square and pads it instead. What the peer is measured with is what it is saved with.

    Args:
        processor: an image processor, a processor with one (`image_processor`), or a callable, which is not changed.
        name (`str`): whose it is, for messages.

    Returns:
        The processor, or a changed copy.

    Raises:
        [`PeerError`]: it pads on all sides, or crops and cannot be told not to.
    """
    own = image_processor_of(processor)
    if is_plain(own):
        return processor
    if getattr(own, "do_pad", False) and hasattr(own, "ensure_multiple_of"):
        raise PeerError(
            f"The processor of {name} ({type(own).__name__}) pads images on all sides, where their labels are not; "
            "give it do_pad=False, and ensure_multiple_of for sizes that the model can take."
        )
    if hasattr(own, "crop_pct") and (dict(own.size).get("shortest_edge") or 384) < 384:
        raise PeerError(
            f"The processor of {name} ({type(own).__name__}) cuts the border off images smaller than 384 pixels; give "
            "it a size of height and width, or a shortest_edge of 384 or more."
        )
    changes = _changes(own)
    if not changes:
        return processor
    processor = copy.deepcopy(processor)
    own = image_processor_of(processor)
    for key, value in changes.items():
        setattr(own, key, value)
    return processor


def _changes(processor: Any) -> dict[str, Any]:
    if hasattr(processor, "do_split_image"):
        size = dict(processor.size)
        side = size.get("shortest_edge") or size.get("height")
        square = {"shortest_edge": side, "longest_edge": side}
        wanted = {"do_split_image": False, "do_pad": True, "size": type(processor.size)(**square)}
        return {} if not processor.do_split_image and processor.do_pad and size == square else wanted
    return {"do_center_crop": False} if getattr(processor, "do_center_crop", False) else {}


def image_processor_of(processor: Any) -> Any:
    """The part of a processor that is for images."""
    return getattr(processor, "image_processor", processor)


class DenseProcessors(PeerProcessors):
    """
    Every peer's processor, run once for all peers whose processors agree; it never meets labels.

    Images of different sizes are processed apart, so that a processor's padding to the largest of a batch happens
    here, in one way for all of them: below and to the right, with 0 (where normalised values have their mean).

    Args:
        processors (`dict[str, Any]`): per peer an image processor, a OneFormer processor, or a callable `images ->
            {"pixel_values": [B, 3, H, W]}`, whose images fill them.

    Returns:
        `PeerInputs`: per peer `pixel_values` `[B, 3, h, w]`; `valid_sizes` `[B, 2]`, int64, height and width of every
        image in them, from the top left; `pixel_mask` `[B, h, w]` and `task_inputs` `[B, L]` for heads that take them;
        and, only where images were padded to the largest of the batch, `own_sizes` `[B, 2]`: the size of what the peer
        sees of that image alone.

    Raises:
        [`PeerError`]: no processor, or as [`whole_view`].

    Example:

    ```python
    >>> inputs = DenseProcessors({"a": Mask2FormerImageProcessor(do_resize=False)})([wide_image, tall_image])["a"]
    >>> inputs["pixel_values"].shape, inputs["valid_sizes"]
    (torch.Size([2, 3, 64, 64]), tensor([[32, 64], [64, 32]]))
    ```
    """

    def __init__(self, processors: Mapping[str, Any]):
        super().__init__({name: whole_view(given, f"peer {name!r}") for name, given in processors.items()})
        self._unpadded: dict[tuple[int, tuple[int, int]], tuple[int, int]] = {}

    def run(self, processor: Any, images: Sequence[Any]) -> dict[str, Tensor]:
        if sees_gray(processor):
            images = [in_gray(image) for image in images]
        if is_plain(processor):
            made = dict(processor(images))
            sizes = [(made["pixel_values"].shape[-2], made["pixel_values"].shape[-1])] * len(images)
            return made | {"valid_sizes": torch.tensor(sizes)}
        by_size: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            by_size.setdefault(_size_of(image), []).append(place)
        parts = [self._alike(processor, [images[place] for place in places]) for places in by_size.values()]
        if len(parts) == 1:
            inputs = parts[0]
        else:
            order = torch.tensor([place for places in by_size.values() for place in places]).argsort()
            inputs = {key: value[order] for key, value in _joined(parts).items()}
        return with_task_input(inputs, processor) if hasattr(processor, "tokenizer") else inputs

    def _alike(self, processor: Any, images: Sequence[Any]) -> dict[str, Tensor]:
        """Images of one size, which need no padding to each other."""
        own = image_processor_of(processor)
        made = own(images=images, return_tensors="pt")
        inputs = {key: made[key] for key in IMAGE_KEYS if key in made}
        if "pixel_mask" in inputs:
            inside = inputs["pixel_mask"][0].bool()
            valid = (int(inside.any(dim=1).sum()), int(inside.any(dim=0).sum()))
        elif getattr(own, "do_pad", False):
            valid = self._size_without_padding(own, _size_of(images[0]))
        else:
            valid = (inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1])
        return inputs | {"valid_sizes": torch.tensor([valid] * len(images))}

    def _size_without_padding(self, processor: Any, size: tuple[int, int]) -> tuple[int, int]:
        """What becomes of an image's height and width, asked of the processor itself."""
        if (id(processor), size) not in self._unpadded:
            blank = Image.new("RGB", (size[1], size[0]))
            shape = processor(images=[blank], return_tensors="pt", do_pad=False)["pixel_values"].shape
            self._unpadded[id(processor), size] = (shape[-2], shape[-1])
        return self._unpadded[id(processor), size]


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of different height and width as one, padded below and to the right."""
    joined: dict[str, Tensor] = {"valid_sizes": torch.cat([part["valid_sizes"] for part in parts])}
    for key in IMAGE_KEYS:
        maps = [part[key] for part in parts if key in part]
        if maps:
            joined[key] = torch.cat(padded(maps))
    own = torch.tensor([part["pixel_values"].shape[-2:] for part in parts for _ in part["pixel_values"]])
    return joined if len(own.unique(dim=0)) == 1 else joined | {"own_sizes": own}


def _size_of(image: Any) -> tuple[int, int]:
    return (image.shape[-2], image.shape[-1]) if isinstance(image, Tensor) else (image.height, image.width)
