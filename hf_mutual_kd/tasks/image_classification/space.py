"""Space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import PeerError
from ..space import RowSpace, truth_of, write_image
from ..zero_shot import has_text_tower
from .model.configuration_encoder_classifier import EncoderClassifierConfig


class ClassificationSpace(RowSpace):
    """An image and the name of its label."""

    files = ("image_view.py", "classification_view.py")

    def check(self, name: str, config: Any) -> None:
        if has_text_tower(config):
            raise PeerError(
                f"peer {name!r} reads the names of its classes ({config.architectures[0]}), which a Space does not "
                "show; leave it out with --peers, its own page on the Hub has the widget"
            )
        if config.model_type == EncoderClassifierConfig.model_type:
            raise PeerError(
                f"peer {name!r} is a {config.encoder_config.model_type} under this package's own classifier, which "
                "brings code; a Space runs none: leave the peer out, or take one that transformers can classify with"
            )

    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        write_image(row, folder / f"{stem}.png")
        return {"name": name, "image": f"{stem}.png", "truth": truth_of(row, labels)}
