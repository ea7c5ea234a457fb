"""Batches of texts: each peer's own tokenizer, padded to the longest text of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...data.class_labels import is_text
from ...data.collator import RoleTaggingCollator
from ...data.inputs import Inputs
from ...data.processors import PeerProcessors, is_plain
from ...errors import DataError

Texts = tuple[str, str | None]
"""A text and, where rows hold pairs, the one that belongs to it."""


def read_texts(text: Any, pair: Any = None) -> Texts:
    """
    The texts of a row.

    Args:
        text: of the input column.
        pair (*optional*): of the column `text_pair`, in data sets that have one.

    Raises:
        [`DataError`]: one is no text, or empty.

    Example:

    ```python
    >>> read_texts("A man sleeps.", "Nobody is awake.")
    ('A man sleeps.', 'Nobody is awake.')
    ```
    """
    for one in (text, pair):
        if one is not None and not isinstance(one, str):
            raise DataError(f"it is a {type(one).__name__}, no text")
    if text is None or not text.strip():
        raise DataError("it is null" if text is None else "it is empty")
    return text, pair


TEXTS = Inputs(
    "text", "text", decode=read_texts, blank=lambda: ("-", None), fits=is_text, further=("text_pair",), typical=is_text
)
"""Texts, and pairs of them where a data set has a column `text_pair`."""


class Tokenizers(PeerProcessors):
    """Every peer's tokenizer: texts are cut where the peer cannot read on, and padded to the longest of the batch."""

    noun = "tokenizer"
    makes = "texts -> {'input_ids': [B, L], 'attention_mask': [B, L]}"

    def run(self, processor: Any, inputs: Sequence[Texts]) -> dict[str, Tensor]:
        """
        Tokens of each text.

        Example:

        ```python
        >>> Tokenizers({"bert": tokenizer})([("a text", None), ("a longer text", None)])["bert"]["attention_mask"]
        tensor([[1, 1, 1, 1, 0],
                [1, 1, 1, 1, 1]])
        ```
        """
        if is_plain(processor):
            return dict(processor(inputs))
        # One by one, as a pair is tokenized otherwise than a text, whatever else is in the batch.
        rows = [processor(text, pair, truncation=True) for text, pair in inputs]
        size = {"padding": "max_length", "max_length": processor.model_max_length} if self.fixed_size else {}
        return dict(processor.pad(rows, **size, return_tensors="pt"))


class TextCollator(RoleTaggingCollator):
    """Rows with `text`, and `text_pair` where they are pairs."""

    inputs = TEXTS
    processors_class = Tokenizers
