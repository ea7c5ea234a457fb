"""Batches of videos: one stretch and crop for all peers, each frame decoded once, then each peer's own frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...data.collator import RoleTaggingCollator
from ...data.processors import PeerInputs, PeerProcessors, is_plain
from .film import FILMS, Film

FRAMES = 16
"""That a callable is given which does not say its `num_frames`."""


class VideoProcessors(PeerProcessors):
    """Every peer's video processor, on as many frames as the peer sees."""

    noun = "video processor"
    makes = "videos, a list of uint8 [T, 3, H, W] of its `num_frames` -> {'pixel_values': [B, T, 3, h, w]}"

    def __call__(self, images: Sequence[Film]) -> PeerInputs:
        return super().__call__([film if film.frames else self.load(film) for film in images])

    def load(self, film: Film) -> Film:
        """A video with the frames of all peers."""
        return film.loaded([frames_of(processor) for processor, _ in self.groups])

    def run(self, processor: Any, images: Sequence[Film]) -> dict[str, Tensor]:
        """
        What one processor makes of the videos.

        Example:

        ```python
        >>> VideoProcessors({"a": processor})([read_film("clip.mp4")])["a"]["pixel_values"].shape
        torch.Size([1, 16, 3, 224, 224])
        ```
        """
        frames = [film.shown(frames_of(processor)) for film in images]
        if is_plain(processor):
            return dict(processor(frames))
        # One by one, as sizes differ.
        made = [processor([one], do_sample_frames=False, return_tensors="pt") for one in frames]
        return {key: torch.cat([one[key] for one in made]) for key in made[0]}


def frames_of(processor: Any) -> int:
    """How many frames a processor takes."""
    return getattr(processor, "num_frames", None) or FRAMES


class VideoCollator(RoleTaggingCollator):
    """Rows with `video`; where nothing is drawn, frames from all over each."""

    inputs = FILMS
    processors_class = VideoProcessors
    processors: VideoProcessors

    def sample(self, row: Mapping[str, Any], image: Film) -> tuple[Film, Any]:
        film, label = super().sample(row, image)
        return self.processors.load(film), label
