"""Text classification: classes of texts and of pairs of them, logits `[B, C]`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils import logging

from ...data.splits import Splits
from ...errors import PeerError
from ..classification.task import Classification
from ..exporting import TaskExport
from ..space import SpaceTask
from .collator import TextCollator
from .export import TextExport
from .space import TextSpace
from .words import WORDS

logger = logging.get_logger(__name__)

MOST_COUNTED = 2_000
"""Texts of a split, evenly spaced, of which those that are cut are counted."""


class TextClassification(Classification):
    """Peers of `AutoModelForSequenceClassification`, each with its own tokenizer, and modules that return `[B, C]`."""

    name = "text-classification"
    words = WORDS
    auto_models = (AutoModelForSequenceClassification,)
    processor_class = AutoTokenizer
    collator_class = TextCollator
    exporter: ClassVar[type[TaskExport] | None] = TextExport
    space: ClassVar[SpaceTask | None] = TextSpace()

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        config: Any = model.config
        super().check_peer(name, model, processor)
        if config.num_labels < 2:
            raise PeerError(
                f"peer {name!r} was trained for regression ({config.num_labels} outputs), and peers here are "
                "classifiers; label_alignment='new_head' puts a new head on it"
            )
        if hasattr(processor, "save_pretrained"):
            fit_tokenizer(name, model, processor)

    def load_processor(self, source: str, revision: str | None, code: dict[str, Any]) -> Any:
        tokenizer = super().load_processor(source, revision, code)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            # Where there is none, transformers makes an empty one, to which every word is unknown.
            raise OSError(f"{source} has no tokenizer")
        return tokenizer

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        # What the source was trained for would decide how pipelines read the new head.
        config = copy.deepcopy(config)
        config.problem_type = self.problem_type
        return super().new_head(source, config, label_names, **load)

    def limits(self, processor: Any, splits: Splits) -> str:
        if not hasattr(processor, "save_pretrained"):
            return ""
        parts = []
        for role in ("train", "test"):
            rows = getattr(splits, role)
            if isinstance(rows, Dataset):
                places = np.unique(np.linspace(0, len(rows) - 1, MOST_COUNTED).astype(int)).tolist()
                cut = sum(is_cut(processor, *self.inputs.read(rows[place])) for place in places)
                parts += [f"{cut:,} of {len(places):,} {role} texts"] if cut else []
        longest = f"reads at most {processor.model_max_length:,} tokens; the rest is cut from"
        return f"{longest} {' and '.join(parts)}" if parts else ""

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        return " / ".join(text for text in self.inputs.read(row) if text)

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        text, pair = self.inputs.read(row)
        return repr(text if pair is None else {"text": text, "text_pair": pair})


def is_cut(tokenizer: Any, text: str, pair: str | None) -> bool:
    """Whether a tokenizer cuts these texts."""
    return len(tokenizer(text, pair, verbose=False)["input_ids"]) > tokenizer.model_max_length


def fit_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """
    Let a tokenizer pad and cut texts as its model needs it, where it leaves that open.

    Raises:
        [`PeerError`]: it has tokens that the model does not know, or nothing to pad with.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        raise PeerError(
            f"peer {name!r}: its tokenizer has {len(tokenizer):,} tokens, and the model knows {known:,}; give the one "
            f"that it was trained with, e.g. --peers.{name}.processor ID_OR_FOLDER"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise PeerError(
                f"peer {name!r}: its tokenizer has no pad_token, so that texts of different lengths make no batch; "
                "save it with one"
            )
        tokenizer.pad_token = tokenizer.eos_token
        logger.warning_once(f"peer {name!r} pads with {tokenizer.eos_token}: its tokenizer has no pad_token")
    if model.config.get_text_config().pad_token_id is None:
        # Decoders read a text's class at its last token.
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if tokenizer.model_max_length >= VERY_LARGE_INTEGER:
        tokenizer.model_max_length = longest_of(model) or tokenizer.model_max_length


def longest_of(model: Any) -> int | None:
    """The most tokens that a model with learned positions reads; `None` where it has none."""
    for key, module in model.named_modules():
        if key.rpartition(".")[2] in ("position_embeddings", "wpe") and isinstance(module, nn.Embedding):
            # RoBERTa's positions begin behind that of the padding.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
