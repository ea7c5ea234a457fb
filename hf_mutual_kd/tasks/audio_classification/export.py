"""Export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ExportError
from ..classification.export import ClassificationExport
from ..exporting import Batch
from .collator import window_of

TAKEN = ("input_values", "input_features", "attention_mask")
"""What feature extractors make of sounds; a file has those of them that its peer takes."""


class AudioExport(ClassificationExport):
    """A classifier of sounds: of waveforms a file takes any length, of spectrograms that of the extractor."""

    batch_size = 1  # as pipelines ask, so that nothing is padded

    def __init__(self, *args: Any, processor: Any, **given: Any):
        super().__init__(*args, processor=processor, **given)
        self.free = ("batch",) if window_of(processor) else ("batch", "sequence")  # type: ignore[misc]

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        given = batch["peer_inputs"][self.name]
        return {key: given[key].contiguous() for key in TAKEN if key in given}

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        extra = [key for key in inputs if key not in TAKEN]
        if extra or not set(TAKEN[:2]) & set(inputs):
            raise ExportError(
                f"peer {self.name!r} takes {', '.join(extra) or 'neither input_values nor input_features'}; a file of "
                f"sounds takes {', '.join(TAKEN)}"
            )
