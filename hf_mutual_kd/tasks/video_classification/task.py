"""Video classification: classes of videos, logits `[B, C]`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import nn
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ...config.options import RecipeOptions
from ...errors import PeerError
from ...reports.pictures import THUMBNAIL_PIXELS, thumbnail
from ..classification.task import Classification
from ..exporting import TaskExport
from ..space import SpaceTask
from .collator import VideoCollator
from .export import VideoExport
from .film import SharedStretch
from .options import VideoOptions
from .space import VideoSpace, video_file
from .words import WORDS


class VideoClassification(Classification):
    """Peers of `AutoModelForVideoClassification`, each with its own frames and sizes, and modules of `[B, C]`."""

    name = "video-classification"
    words = WORDS
    options_class: ClassVar[type[RecipeOptions]] = VideoOptions
    options: VideoOptions
    auto_models = (AutoModelForVideoClassification,)
    processor_class = AutoVideoProcessor
    collator_class = VideoCollator
    exporter: ClassVar[type[TaskExport] | None] = VideoExport
    space: ClassVar[SpaceTask | None] = VideoSpace()

    def view(self, processors: Mapping[str, Any], seed: int) -> SharedStretch:
        own = self.options
        return SharedStretch(own.crop_seconds, own.crop_min_area, color_jitter=own.color_jitter, seed=seed)

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        super().check_peer(name, model, processor)
        seen = frames_seen(model)
        if seen is None or not hasattr(processor, "save_pretrained"):
            return
        if not hasattr(processor, "do_sample_frames"):
            raise PeerError(
                f"peer {name!r}: {type(processor).__name__} is no video processor; say which one the peer was trained "
                f"with: --peers.{name}.processor ID_OR_FOLDER"
            )
        if getattr(processor, "num_frames", None) not in (None, seen):
            raise PeerError(
                f"peer {name!r} sees {seen} frames, and its processor takes {processor.num_frames} (num_frames)"
            )
        processor.num_frames = seen

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        film = self.inputs.read(row).loaded([4], THUMBNAIL_PIXELS)
        one, two, three, four = film.shown(4).permute(0, 2, 3, 1).numpy()
        grid = np.concatenate([np.concatenate([one, two], 1), np.concatenate([three, four], 1)])
        return thumbnail(Image.fromarray(grid), 2 * THUMBNAIL_PIXELS)

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        # With which pipelines read files.
        return repr(str(video_file(row, folder, "video"))) if find_spec("torchcodec") else None


def frames_seen(model: Any) -> int | None:
    """How many frames a model of transformers sees; `None` of others."""
    config = getattr(model, "config", None)
    return getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
