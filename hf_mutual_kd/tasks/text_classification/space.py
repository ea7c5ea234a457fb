"""Space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..space import RowSpace, truth_of
from .collator import read_texts

LONGEST = 2_000
"""Characters of a sample's texts that a Space holds."""


class TextSpace(RowSpace):
    """A text, or a pair, and the name of its label."""

    thing = "a text"
    unit = "texts"
    files = ("image_view.py", "classification_view.py", "text_view.py")
    processor_files = (
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
        "*.model",
    )

    def packages(self, configs: Sequence[Any]) -> list[str]:
        return ["torch", "transformers"]

    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        text, pair = (one and one[:LONGEST] for one in read_texts(row["text"], row.get("text_pair")))
        return {"name": name, "text": text, "text_pair": pair, "truth": truth_of(row, labels)}
