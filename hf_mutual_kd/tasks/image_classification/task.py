"""Image classification: classes of images, logits `[B, C]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers import AutoModelForImageClassification

from ...config.options import RecipeOptions
from ...config.task_options import CropOptions
from ...data.images import decode_image, image_file
from ...data.views import SharedView
from ...errors import PeerError
from ...reports.pictures import thumbnail
from ..classification.export import ClassificationExport
from ..classification.task import Classification
from ..exporting import TaskExport
from ..space import SpaceTask
from ..zero_shot import has_text_tower
from .encoders import classifier_on, takes_encoder
from .model import auto  # noqa: F401  (the Auto classes learn our classifier)
from .options import ImageOptions
from .space import ClassificationSpace
from .words import WORDS


class ImageClassification(Classification):
    """Peers of `AutoModelForImageClassification`, timm models through it, and any module that returns `[B, C]`."""

    name = "image-classification"
    words = WORDS
    options_class: ClassVar[type[RecipeOptions]] = ImageOptions
    options: CropOptions
    auto_models = (AutoModelForImageClassification,)
    exporter: ClassVar[type[TaskExport] | None] = ClassificationExport
    space: ClassVar[SpaceTask | None] = ClassificationSpace()

    def view(self, processors: Mapping[str, Any], seed: int) -> SharedView:
        return SharedView(min_area=self.options.crop_min_area, color_jitter=self.options.color_jitter, seed=seed)

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        return thumbnail(decode_image(row["image"]))

    def check_config(self, name: str, config: Any) -> None:
        if config.model_type == "shieldgemma2":
            raise PeerError(
                f"peer {name!r}: ShieldGemma2ForImageClassification asks a language model a question of yes or no; "
                "it has no classes to learn"
            )

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        return image_file(row, folder)

    def reads_labels(self, config: Any) -> bool:
        return has_text_tower(config)

    def takes_encoder(self, config: Any) -> bool:
        return super().takes_encoder(config) or takes_encoder(config)

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        if not super().takes_encoder(config):
            return classifier_on(source, config, label_names, **load)
        model: Any
        model, drawn = super().new_head(source, config, label_names, **load)
        if getattr(model.config, "label_names", None) is not None:
            # The wrapper of timm models keeps the source's names here and saves them in place of id2label.
            model.config.label_names = list(label_names)
        return model, drawn
