"""Batches of images of different sizes in which none of them sees the padding that the others ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.processors import PeerInputs
from ..maps import padded
from .labels import own_parts
from .processors import IMAGE_KEYS

SIZE_KEYS = ("valid_sizes", "own_sizes")
"""What a batch says of its images beside what a model takes."""
PARTS = 2**16
"""Of a cell of joined maps: an image may end within one, as it does when it is alone."""


def run_alone(
    call: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[int, int], Tensor, Tensor | None]:
    """
    A peer's outputs for a batch, every image as if it were alone in it.

    No head of transformers leaves the padding of a batch out of its attention and convolutions (5.23; `pixel_mask` is
    accepted and not looked at). So images of different sizes are run apart, those of one size together.

    Args:
        call (`Callable`): runs the model on some rows: `{"pixel_values": [b, 3, h, w], …}` to a mapping of tensors
            with b rows, of which one may be maps `[b, K, h', w']`.
        inputs (`Mapping[str, torch.Tensor]`): as of [`DenseProcessors`].

    Returns:
        `tuple` of the outputs, maps padded below and to the right with 0; `padded` (height and width) and `valid`
        `[B, 2]`, both of one unit, for [`dense_log_probs`], which say where in the maps
        each image is; and, only where sizes differ, `[B, 3, 2]`: height and width of each image's own maps, of what
        the peer sees of it alone and of the image in that.

    Example:

    ```python
    >>> pixels = torch.ones(2, 3, 4, 8)
    >>> sizes = torch.tensor([[4, 8], [4, 4]])
    >>> run_alone(lambda part: {"logits": part["pixel_values"].mean((2, 3), keepdim=True)},
    ...           {"pixel_values": pixels, "valid_sizes": sizes, "own_sizes": sizes})[0]["logits"].shape
    torch.Size([2, 3, 1, 1])
    ```
    """
    given = {key: value for key, value in inputs.items() if key not in SIZE_KEYS}
    padded = pixels_of(given)
    if "own_sizes" not in inputs:
        return dict(call(given)), padded, inputs["valid_sizes"], None
    sizes, group = inputs["own_sizes"].unique(dim=0, return_inverse=True)
    outputs, valid, grids = [], [], torch.empty_like(inputs["own_sizes"])
    pairs: list[list[int]] = sizes.tolist()
    for number, (height, width) in enumerate(pairs):
        rows = (group == number).nonzero().squeeze(1)
        part = {key: value[rows] for key, value in given.items()}
        part |= {key: part[key][..., :height, :width] for key in IMAGE_KEYS if key in part}
        outputs.append(dict(call(part)))
        grids[rows] = sizes.new_tensor(pixels_of(outputs[-1]))
        valid.append(inputs["valid_sizes"][rows] * grids[rows] * PARTS // sizes[number])
    order = torch.cat([(group == number).nonzero().squeeze(1) for number in range(len(sizes))]).argsort()
    joined = {key: _joined([part[key] for part in outputs])[order] for key in outputs[0]}
    height, width = pixels_of(joined)
    alone = torch.stack([grids, inputs["own_sizes"], inputs["valid_sizes"]], dim=1)
    return joined, (height * PARTS, width * PARTS), torch.cat(valid)[order], alone


def is_padded(peer_inputs: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether some peer sees images of different sizes, padded to the largest of the batch."""
    return any("own_sizes" in inputs for inputs in peer_inputs.values())


def one_by_one(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A batch of images of different sizes as batches of one, without the padding.

    Args:
        batch (`dict`): of a [`DenseCollator`].

    Returns:
        `list[dict]`: each with `peer_inputs`, `labels` and `sample_ids`, as if the image had been collated alone.
    """
    return [
        {
            "peer_inputs": PeerInputs({peer: _row(inputs, row) for peer, inputs in batch["peer_inputs"].items()}),
            "labels": own,
            "sample_ids": batch["sample_ids"][row, None],
        }
        for row, own in enumerate(own_parts(batch["labels"]))
    ]


def _row(inputs: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    one = {key: value[row, None] for key, value in inputs.items() if key != "own_sizes"}
    if "own_sizes" not in inputs:
        return one
    height, width = inputs["own_sizes"][row].tolist()
    return one | {key: one[key][..., :height, :width] for key in IMAGE_KEYS if key in one}


def pixels_of(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Height and width of the images or maps `[B, C, h, w]` in a batch, whatever a module calls them."""
    height, width = next(value.shape[2:] for value in tensors.values() if value.ndim == 4)
    return height, width


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(padded(parts) if parts[0].ndim == 4 else parts)
