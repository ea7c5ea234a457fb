"""Space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoVideoProcessor

from ...data.video import open_frames
from ...errors import DataError
from ..space import RowSpace, truth_of

ENDINGS = {"mov": "mp4", "matroska": "webm", "avi": "avi"}
"""By how FFmpeg's name of a format begins."""


def video_file(row: Mapping[str, Any], folder: Path, stem: str) -> Path:
    """A row's video as a file, unchanged.

    Raises:
        [`DataError`]: it is no file that browsers show.
    """
    cell: Any = row["video"]
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    source = cell.get("path") if isinstance(cell, Mapping) else cell
    with open_frames(row["video"]) as reader:
        begins = str(getattr(reader, "container", "")).split(",")[0]
    if begins not in ENDINGS:
        raise DataError(f"a Space shows MP4, WebM, MKV and AVI, and this video is {begins or 'a folder of frames'}")
    path = folder / f"{stem}.{ENDINGS[begins]}"
    path.write_bytes(content if isinstance(content, bytes) else Path(str(source)).read_bytes())
    return path


class VideoSpace(RowSpace):
    """A video, as it is, and the name of its label."""

    thing = "a video"
    unit = "videos"
    files = (
        "image_view.py",
        "classification_view.py",
        "videos.py",
        "decode_video.py",
        "decode_clip.py",
        "video_view.py",
    )

    def packages(self, configs: Sequence[Any]) -> list[str]:
        return ["torch", "torchvision", "transformers", "av"]

    def peer_facts(self, folder: Path) -> dict[str, Any]:
        return {"frames": AutoVideoProcessor.from_pretrained(folder, trust_remote_code=False).num_frames}

    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "name": name,
            "video": video_file(row, folder, stem).relative_to(folder).as_posix(),
            "truth": truth_of(row, labels),
        }
