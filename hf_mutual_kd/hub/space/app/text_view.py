"""Text classification on the page: a text, or a pair of them, and its label, bars of the peers' guesses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from classification_view import ClassificationView
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from uploads import Refused

MOST_TEXT = 20_000
"""Characters of a text; peers read less."""
BETWEEN = "\n\n"
"""Stands between the texts of a pair."""


class TextView(ClassificationView):
    """The visitor writes; where the samples are pairs, the second text comes after an empty line."""

    auto_models = (AutoModelForSequenceClassification,)
    sample_component = "textbox"

    @property
    def is_of_pairs(self) -> bool:
        """Whether peers are asked about pairs of texts."""
        return any(sample.get("text_pair") for sample in self.facts["samples"])

    def subject_input(self) -> Any:
        return gr.Textbox(
            label="Text",
            info="After an empty line: the text that belongs to it." if self.is_of_pairs else None,
            lines=6,
            max_lines=12,
            max_length=MOST_TEXT,
            elem_id="upload",
        )

    def sample_value(self, sample: dict[str, Any]) -> str:
        return BETWEEN.join(part for part in (sample["text"], sample.get("text_pair")) if part)

    def sample_shown(self, sample: dict[str, Any]) -> str:
        return self.sample_value(sample)

    def admit(self, given: str | None, folders: Iterable[Path]) -> str | None:
        return given

    def replaced(self, subject: Any) -> Any:
        return subject.input

    def subject(self, given: str | None) -> list[str]:
        """
        The text, or both of a pair.

        Raises:
            [`~uploads.Refused`]: nothing was written, too much, or one text where two are asked for.
        """
        text = given.strip() if isinstance(given, str) else ""
        if not text:
            raise Refused("Write a text, or pick a sample.")
        if len(text) > MOST_TEXT:
            raise Refused(f"A text has at most {MOST_TEXT:,} characters.")
        if not self.is_of_pairs:
            return [text]
        parts = [part.strip() for part in text.split(BETWEEN, 1)]
        if len(parts) < 2:
            raise Refused("These peers read two texts: write the second one after an empty line.")
        return parts

    def load_processor(self, source: str, revision: str | None) -> Any:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)

    def inputs(self, processor: Any, subject: Any) -> dict[str, Any]:
        return processor(*subject, truncation=True, return_tensors="pt")


VIEW = TextView
