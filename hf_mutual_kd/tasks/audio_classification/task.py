"""Audio classification: classes of sounds, logits `[B, C]`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from ...config.options import RecipeOptions
from ...config.task_options import ClipOptions
from ...data.audio import as_flac, small_flac
from ...data.splits import Splits
from ...distillation.label_alignment import ClassColumns
from ...errors import DataError, PeerError
from ..classification.task import Classification
from ..exporting import TaskExport
from ..space import SpaceTask
from .collator import LENGTHS, LONGEST_SECONDS, AudioCollator, SharedCrop, by_length, window_of
from .export import AudioExport
from .options import AudioOptions
from .space import AudioSpace
from .words import WORDS

MOST_COUNTED = 200
"""Sounds of a split, evenly spaced, of which those that are cut are counted."""


class AudioClassification(Classification):
    """Peers of `AutoModelForAudioClassification`, each with its own feature extractor, and modules of `[B, C]`."""

    name = "audio-classification"
    words = WORDS
    options_class: ClassVar[type[RecipeOptions]] = AudioOptions
    options: ClipOptions
    auto_models = (AutoModelForAudioClassification,)
    processor_class = AutoFeatureExtractor
    collator_class = AudioCollator
    exporter: ClassVar[type[TaskExport] | None] = AudioExport
    space: ClassVar[SpaceTask | None] = AudioSpace()

    def view(self, processors: Mapping[str, Any], seed: int) -> SharedCrop:
        return SharedCrop(self.options.crop_seconds, seed)

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        super().check_peer(name, model, processor)
        if hasattr(processor, "save_pretrained") and not hasattr(processor, "sampling_rate"):
            raise PeerError(
                f"peer {name!r}: {type(processor).__name__} is no feature extractor of sounds (it has no "
                f"sampling_rate); say which one the peer was trained with: --peers.{name}.processor ID_OR_FOLDER"
            )

    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> Tensor:
        if LENGTHS not in inputs:
            return super().outputs(model, inputs, columns)
        # Such a model takes silence for sound: padding would make its answer depend on what else is in the batch.
        parts = by_length(inputs)
        said = torch.cat([super(AudioClassification, self).outputs(model, given, columns) for _, given in parts])
        return said[torch.cat([rows for rows, _ in parts]).argsort()]

    def limits(self, processor: Any, splits: Splits) -> str:
        most = min(LONGEST_SECONDS, window_of(processor) or LONGEST_SECONDS)
        parts = []
        for role in ("train", "test"):
            rows = getattr(splits, role)
            if isinstance(rows, Dataset):
                places = np.unique(np.linspace(0, len(rows) - 1, MOST_COUNTED).astype(int)).tolist()
                cut = sum(self._seconds(rows[place]) > most + 0.01 for place in places)
                parts += [f"{cut:,} of {len(places):,} {role} sounds"] if cut else []
        return f"hears at most {most:.4g} seconds; the rest is cut from {' and '.join(parts)}" if parts else ""

    def _seconds(self, row: Mapping[str, Any]) -> float:
        try:
            return self.inputs.read(row).seconds
        except DataError:
            return 0.0

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        return small_flac(self.inputs.read(row))

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        if shutil.which("ffmpeg") is None:
            return None  # with which pipelines read files
        (folder / "sound.flac").write_bytes(as_flac(self.inputs.read(row).part(0, LONGEST_SECONDS)))
        return repr(str(folder / "sound.flac"))
