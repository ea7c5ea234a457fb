"""Export."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import ExportError
from ..classification.export import ClassificationExport
from ..exporting import Batch

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""What tokenizers make of texts; a file has those of them that its peer takes."""


class TextExport(ClassificationExport):
    """A text classifier: a file takes texts of any length, padded to one."""

    free = ("batch", "sequence")

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        given = batch["peer_inputs"][self.name]
        return {key: given[key].long().contiguous() for key in TOKENS if key in given}

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        extra = [key for key in inputs if key not in TOKENS]
        if extra or "input_ids" not in inputs:
            raise ExportError(
                f"peer {self.name!r} takes {', '.join(extra) or 'no input_ids'}; a file of texts takes "
                f"{', '.join(TOKENS)}"
            )
