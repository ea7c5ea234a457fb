"""Video saliency in a Space: the models' code as the Space's own, and test videos with the truth of some frames."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import DataError, PeerError
from ...reports.run_record import RunRecord
from ..space import SAMPLES, SpaceTask
from .collator import clip_policy
from .data.clips import ClipPolicy, clip_frames
from .data.truth import SaliencyVideo
from .model.configuration_video_saliency import VideoSaliencyConfig
from .model.processing_video_saliency import VideoSaliencyProcessor
from .predict import video_file

CODE = "saliency_model"
"""The package inside the Space that holds the models' code."""
MOST_SIDE = 640
"""Pixels of a sample's longer side, as of the app's uploads."""
TARGETS = 3
"""Frames of a sample that are shown, as of the app's uploads."""
SPAN = 64
"""Frames of a sample beyond those of one clip."""
QUALITY = 12
"""Constant rate factor of x264: hardly a difference to be seen."""


class SaliencySpace(SpaceTask):
    """A short part of a test video, and the density of a few of its frames as 16-bit PNG."""

    score = "CC − KLD of its map with the truth, 1 at best"
    thing = "a short video"
    unit = "videos"
    files = ("videos.py", "decode_video.py", "saliency_view.py")

    def check(self, name: str, config: Any) -> None:
        if config.model_type != VideoSaliencyConfig.model_type:
            raise PeerError(
                f"peer {name!r} is of type {config.model_type}: a Space runs no code but its own, which is that of "
                "VideoSaliencyModel"
            )

    def write_app(self, folder: Path) -> None:
        super().write_app(folder)
        place = folder / CODE
        place.mkdir()
        (place / "__init__.py").write_text('"""Video saliency models: files of hf_mutual_kd, as they were there."""\n')
        ours = Path(__file__).with_name("model")
        for file in (ours / "losses.py", *sorted(ours.glob("*_video_saliency.py"))):
            shutil.copyfile(file, place / file.name)

    def packages(self, configs: Sequence[Any]) -> list[str]:
        encoders = [config.encoder_config for config in configs if config.encoder_config is not None]
        return [*super().packages([*configs, *encoders]), "av"]

    def peer_facts(self, folder: Path) -> dict[str, Any]:
        policy: Any = clip_policy(VideoSaliencyProcessor.from_pretrained(folder))
        return {"clip": list(policy.relative)}

    def write_samples(
        self, run: RunRecord, rows: Any, peers: Sequence[Mapping[str, Any]], folder: Path, most: int
    ) -> list[dict[str, Any]]:
        frames: dict[str, list[int]] = {}
        videos: dict[str, SaliencyVideo] = {}
        for row in map(rows.__getitem__, range(len(rows))):
            frames.setdefault(row["video"], []).append(row["frame"])
            videos[row["video"]] = row["source"]
        names = list(videos)
        count = min(most, len(names))
        chosen = [names[len(names) * number // count] for number in range(count)]
        clips = [ClipPolicy(offsets=tuple(peer["clip"])) for peer in peers]
        found = [
            _write_video(videos[name], frames[name], clips, folder, f"{SAMPLES}/{number:02d}")
            for number, name in enumerate(chosen)
        ]
        return [sample for sample in found if sample is not None]


def _write_video(
    video: SaliencyVideo, targets: Iterable[int], clips: Sequence[ClipPolicy], folder: Path, stem: str
) -> dict[str, Any] | None:
    """The middle of a video with a few of its target frames; `None` where nobody looked at one that is in it."""
    relative = [offset for clip in clips for offset in clip.relative]
    length = min(video.length, SPAN + max(relative) - min(relative))
    start = (video.length - length) // 2
    seen = {
        target: [number for clip in clips for number in clip_frames(target, video.shot(target), policy=clip)]
        for target in targets
        if start <= target < start + length
    }
    maps = {
        target: density
        for target, numbers in seen.items()
        if start <= min(numbers) and max(numbers) < start + length and (density := _density(video, target)) is not None
    }
    known = list(maps)
    shown = sorted({known[(2 * at + 1) * len(known) // (2 * TARGETS)] for at in range(TARGETS)}) if known else []
    if not shown:
        return None
    with video.open(max_side=MOST_SIDE) as reader:
        frames, fps = reader.frames(range(start, start + length)), reader.fps
    with video_file(folder / f"{stem}.mp4", fps, crf=QUALITY) as write:
        for frame in frames:
            write(frame)
    Image.fromarray(frames[shown[len(shown) // 2] - start]).save(folder / f"{stem}.png")
    for at, target in enumerate(shown):
        _save_density(maps[target], folder / f"{stem}_truth{at}.png")
    return {
        "name": video.name,
        "image": f"{stem}.png",
        "video": f"{stem}.mp4",
        "truth": video.name,
        "targets": [{"frame": target - start, "map": f"{stem}_truth{at}.png"} for at, target in enumerate(shown)],
        "cuts": [cut - start for cut in video.cuts if start < cut < start + length],
    }


def _density(video: SaliencyVideo, frame: int) -> np.ndarray | None:
    """Where people looked; `None` where nobody did, or it cannot be read."""
    if video.truth is None:
        return None
    with suppress(DataError):
        density = video.truth.density(frame)
        return density if density.any() else None
    return None


def _save_density(density: np.ndarray, path: Path) -> None:
    """As 16-bit grey of a bounded size, the peak as the largest value."""
    image = Image.fromarray((density / density.max()).astype(np.float32))
    image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.BILINEAR)
    Image.fromarray(np.rint(np.asarray(image).clip(0, 1) * 65535).astype(np.uint16)).save(path)
