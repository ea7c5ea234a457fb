"""Space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.audio import as_flac, read_sound
from ..space import RowSpace, truth_of
from .collator import LONGEST_SECONDS


class AudioSpace(RowSpace):
    """A sound, at most 30 seconds of it, and the name of its label."""

    thing = "a sound"
    unit = "sounds"
    files = (
        "image_view.py",
        "classification_view.py",
        "videos.py",
        "decode_video.py",
        "decode_sound.py",
        "sound_view.py",
    )

    def packages(self, configs: Sequence[Any]) -> list[str]:
        return ["torch", "transformers", "av"]

    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        (folder / f"{stem}.flac").write_bytes(as_flac(read_sound(row["audio"]).part(0, LONGEST_SECONDS)))
        return {"name": name, "sound": f"{stem}.flac", "truth": truth_of(row, labels)}
