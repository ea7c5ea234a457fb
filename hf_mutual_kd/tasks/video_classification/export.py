"""Export."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import ExportError
from ..classification.export import ClassificationExport
from ..exporting import PIXELS, Batch

VIDEOS = (PIXELS, "pixel_values_videos")
"""What models call the frames that they see."""


class VideoExport(ClassificationExport):
    """A classifier of videos: a file takes the frames that its peer sees, `[B, T, 3, H, W]`."""

    batch_size = 4

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        given = batch["peer_inputs"][self.name]
        return {key: given[key].float().contiguous() for key in VIDEOS if key in given}

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        extra = [key for key in inputs if key not in VIDEOS]
        if extra or len(inputs) != 1:
            raise ExportError(f"peer {self.name!r} takes {', '.join(inputs)}; a file takes one of {', '.join(VIDEOS)}")
