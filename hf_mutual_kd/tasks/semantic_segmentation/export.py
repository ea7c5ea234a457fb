"""Export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...data.masks import IGNORE
from ..exporting import Batch, Counted, TaskExport, Traceable, _equal
from .batches import SIZE_KEYS, pixels_of
from .head_losses import QUERY_OUTPUTS, placed_output
from .heads import head_of
from .labels import image_sizes, own_parts


class SegmentationExport(TaskExport):
    """A segmenter: a prediction is the map of classes at the image's own size, of queries as of logits per pixel."""

    batch_size = 8
    # No head of transformers looks at the mask (see `dense_batches`), and the task's sentence is part of the file.
    extras = frozenset({*SIZE_KEYS, "pixel_mask", "task_inputs"})

    @property
    def outputs(self) -> tuple[str, ...]:
        return QUERY_OUTPUTS if head_of(self.model) == "query" else super().outputs

    def traceable(self, batch: Batch) -> Traceable:
        given = batch["peer_inputs"][self.name]
        constants = {key: given[key][:1] for key in ("task_inputs",) if key in given}
        return Traceable(self.model, self.outputs, constants=constants).eval()

    def predictions(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        given = batch["peer_inputs"][self.name]
        output = placed_output(head_of(self.model), dict(outputs), pixels_of(given), given["valid_sizes"])
        return output.semantic_maps(image_sizes(batch["labels"]))

    def alike(self, predictions: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        return _equal(predictions, others)

    def right(self, predictions: Sequence[Tensor], batch: Batch) -> Counted:
        """Over the labelled pixels of all images, as `pACC` is counted."""
        if self.own_ids is None:
            return 0.0, 0
        found, truths = [], []
        for prediction, (truth,) in zip(predictions, own_parts(batch["labels"]), strict=True):
            known = (truth >= 0) & (truth != IGNORE)
            found.append(prediction[known])
            truths.append(self.own_ids[truth[known]])
        return _equal(found, truths)
