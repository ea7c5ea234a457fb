"""The data collator for maps: reads image and mask once, draws one view of both, and runs the peers' processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...data.collator import BLANK, SAMPLE_ID, RoleTaggingCollator
from ...data.masks import UNLABELLED, UNREADABLE, check_mask, read_mask
from ...errors import DataError, LabelError
from .labels import pad_labels
from .processors import DenseProcessors, load_dense_processor

__all__ = ["DenseCollator", "load_dense_processor"]


class DenseCollator(RoleTaggingCollator):
    """Turns rows of image and mask into one batch for all peers, every sample tagged with its teacher.

    Every mask is checked against its image and, where `label_names` is set, against the classes.

    Args: as [`RoleTaggingCollator`]; the view is `(image, mask, sample_id, epoch) -> (image,
        mask)`, a [`DenseView`].

    Returns:
        `dict`: `peer_inputs` as of [`DenseProcessors`]; `labels` `[B, H, W]` with the
        numbers of [`masks`]; `sample_ids` `[B]` and `roles` `[B]`. Labels are of the view's size, the
        images' own without a view, and cover what each peer sees of the image.

    Raises:
        [`DataError`]: an unreadable image or mask, named by its sample id.
        [`LabelError`]: a mask that is not of its image or holds what is no class.

    Example:

    ```python
    >>> collator = DenseCollator(cohort.processors)
    >>> batch = collator([{"image": image, "label": mask, "sample_id": 0}])
    >>> batch["labels"].shape, batch["peer_inputs"]["segformer"]["valid_sizes"]
    (torch.Size([1, 300, 400]), tensor([[512, 512]]))
    ```
    """

    processors_class = DenseProcessors

    def sample(self, row: Mapping[str, Any], image: Any) -> tuple[Any, Tensor]:
        size = (image.shape[-2], image.shape[-1]) if isinstance(image, Tensor) else (image.height, image.width)
        try:
            mask = read_mask(row)
        except DataError as error:
            raise DataError(f"its mask: {error}") from None
        if mask is None:
            mask = torch.full(size, UNLABELLED)
        else:
            try:
                check_mask(mask, size, len(self.label_names) or None)
            except LabelError as error:
                raise LabelError(f"sample {row[SAMPLE_ID]}: {error}") from None
        if self.view is not None:
            return self.view(image, mask, row[SAMPLE_ID], int(self._epoch))
        return image, mask

    def blank(self) -> tuple[Any, Tensor]:
        image: Any = Image.new("RGB", BLANK)
        mask = torch.full(BLANK, UNREADABLE)
        if self.view is not None:
            # Of the others' size: run apart, it would add a loss, in which heads with queries wait for all processes.
            image, mask = self.view(image, mask, 0, 0)
        return image, torch.full_like(mask, UNREADABLE)

    def join(self, labels: Sequence[Tensor]) -> Tensor:
        return pad_labels(labels)
