"""Space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...data.masks import read_mask
from ...errors import PeerError
from ..space import RowSpace, write_image


class SegmentationSpace(RowSpace):
    """An image and its mask, class ids as grey values."""

    score = "mean log-probability of the truth over the pixels, in nats"
    files = ("image_view.py", "segmentation_view.py")
    not_shown = ("eomt", "eomt_dinov3", "oneformer")
    """Model types whose inputs the app does not make."""
    needs_scipy = ("maskformer", "mask2former")

    def check(self, name: str, config: Any) -> None:
        if config.model_type in self.not_shown:
            raise PeerError(f"peer {name!r}: a Space does not show models of type {config.model_type} yet")

    def packages(self, configs: Sequence[Any]) -> list[str]:
        types = {str(config.model_type) for config in configs}
        return [*super().packages(configs), *(["scipy"] if types.intersection(self.needs_scipy) else [])]

    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        image = write_image(row, folder / f"{stem}.png")
        mask = read_mask(row)
        sample = {"name": name, "image": f"{stem}.png", "truth": name}
        if mask is None:
            return sample
        known = mask.where((mask >= 0) & (mask < len(labels)), 255).numpy().astype("uint8")
        Image.fromarray(known).resize(image.size, Image.Resampling.NEAREST).save(folder / f"{stem}_truth.png")
        return sample | {"mask": f"{stem}_truth.png"}
