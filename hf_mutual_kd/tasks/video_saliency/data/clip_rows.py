"""Rows for training and evaluation: a target frame, its truth, and the clip that every peer sees for it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ....config.rules import check_numbers
from ....data.views import draws_of
from ....errors import ConfigError, DataError
from .clips import Policy, clip_frames, evaluation_targets, training_target
from .fingerprint import COVERS, fingerprint_videos
from .gaze_reference import GazeReference
from .truth import SaliencyVideo, as_density, check_aspect

BESIDE = "beside"
"""Of a row that is seen together with a neighbouring frame: the number of that."""

SHOT_BITS, FRAME_BITS = 16, 24
"""Of a unit's number, which holds video, shot and frame."""


def unit_parts(sample_ids: Tensor) -> Tensor:
    """Video, shot and frame of units by their numbers, `[B]` to `[B, 3]`.

    Example:

    ```python
    >>> unit_parts(torch.tensor([2 << 40 | 1 << 24 | 17]))
    tensor([[ 2,  1, 17]])
    ```
    """
    shots = sample_ids >> FRAME_BITS
    parts = shots >> SHOT_BITS, shots & (1 << SHOT_BITS) - 1, sample_ids & (1 << FRAME_BITS) - 1
    return torch.stack(parts, dim=1)


class ClipRows(Dataset):
    """One row for each video and epoch in training, or for every k-th frame of each video in evaluation.

    A row is `{"sample_id", "name", "video", "frame", "source", "label"}`: the unit's number (the same for a frame of a
    video in every epoch, see [`unit_parts`]) and name, the video's name, the target frame, the [`SaliencyVideo`], and
    its [`Truth`], `None` without gaze. Nothing is decoded here: [`load_clip`] does, in the collator, when it is known
    which frames the peers need.

    Args:
        videos (`list[SaliencyVideo]`): of one split.
        every (`int`, *optional*): evaluation: every `every`-th frame from the first. Unset: training, one frame of
            each video, drawn by seed, epoch and the video's name.
        seed (`int`, *optional*, defaults to 0): of the draws.

    Example:

    ```python
    >>> train, test = ClipRows(splits.train, seed=0), ClipRows(splits.test, every=8)
    >>> train.set_epoch(3)
    >>> train[0]["frame"]
    17
    ```
    """

    def __init__(self, videos: Sequence[SaliencyVideo], every: int | None = None, *, seed: int = 0):
        if not videos:
            raise DataError("a data set of clips needs at least one video")
        check_numbers(every=every)
        self.videos, self.seed = list(videos), seed
        self._rows = None
        if every is not None:
            targets = [evaluation_targets(range(video.length), every) for video in videos]
            self._rows = [(place, frame) for place, frames in enumerate(targets) for frame in frames]
        # Shared, so that workers that live on see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other target frames, also in worker processes."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.videos if self._rows is None else self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._rows is not None:
            place, frame = self._rows[index]
        else:
            place = range(len(self))[index]
            frame = self._target(place, int(self._epoch))
        video = self.videos[place]
        name = f"{video.name} frame {frame}"
        number = self._number(place, frame)
        row = {"sample_id": number, "name": name, "video": video.name, "frame": frame, "source": video}
        return row | {"label": video.truth}

    def which_labelled(self) -> np.ndarray:
        """`[rows]` bool: of which videos gaze was recorded; where nobody looked a frame has a truth, a blank one."""
        places = range(len(self.videos)) if self._rows is None else (place for place, _ in self._rows)
        return np.array([self.videos[place].has_gaze for place in places], dtype=bool)

    def _target(self, place: int, epoch: int) -> int:
        video = self.videos[place]
        return training_target(range(video.length), self.seed, epoch, video.name)

    def _number(self, place: int, frame: int) -> int:
        return (place << SHOT_BITS | bisect_right(self.videos[place].cuts, frame)) << FRAME_BITS | frame

    # For score tables

    @property
    def is_drawn(self) -> bool:
        """Whether every epoch shows other target frames."""
        return self._rows is None

    def fixed_rows(self, epochs: int | None = None) -> ClipRows:
        """Rows that no epoch changes, in ascending order of their numbers.

        Args:
            epochs (`int`, *optional*): only the target frames that so many epochs of training draw, each once; every
                frame when unset. Rows for evaluation are fixed already.

        Raises:
            [`ConfigError`]: `epochs` of rows that no epoch draws, or below 1.

        Example:

        ```python
        >>> train = ClipRows(splits.train, seed=0)
        >>> len(train), len(train.fixed_rows(epochs=3)), len(train.fixed_rows())
        (8, 22, 80)
        ```
        """
        if epochs is not None and (epochs < 1 or not self.is_drawn):
            raise ConfigError(f"epochs is for training videos and must be 1 or more, got {epochs}")
        if self._rows is not None:
            return self
        fixed = ClipRows(self.videos, every=1, seed=self.seed)
        if epochs is not None:
            drawn = {(place, self._target(place, epoch)) for place in range(len(self)) for epoch in range(epochs)}
            fixed._rows = sorted(drawn)
        return fixed

    def sample_ids(self) -> list[int]:
        """The numbers of all [`fixed_rows`], in order; none in training, whose rows change with the epoch."""
        return [self._number(*row) for row in self._rows or ()]

    def describe(self) -> dict[str, Any]:
        """What a score table says of its rows; of rows that are drawn anew, no more than of which videos they are."""
        facts = {"fingerprint": fingerprint_videos(self.videos), "fingerprint_of": COVERS}
        if self.is_drawn:
            return facts
        frames = hashlib.sha256(np.array(self.sample_ids(), "<i8").tobytes()).hexdigest()[:32]
        return {"rows": len(self), "frames": frames} | facts

    @cached_property
    def reference(self) -> GazeReference | None:
        """Where people look in these videos; made on first use. `None` where no gaze was recorded."""
        seen = [video for video in self.videos if video.has_gaze]
        return GazeReference(seen) if seen else None


@dataclass(frozen=True)
class Clip:
    """What the peers see of one unit, and its truth.

    Args:
        frames (`dict[str, Tensor]`): for each peer its clip, uint8 `[T, H, W, 3]`; each peer's own T.
        density (`np.ndarray`): float32 `[h, w]`, sums to 1, or is 0 everywhere where nobody looked or no gaze was
            recorded.
        points (`np.ndarray`): float32 `[K, 2]`: row and column of the fixations, in pixels of the density.
    """

    frames: dict[str, Tensor]
    density: np.ndarray
    points: np.ndarray


def load_clip(
    row: Mapping[str, Any],
    policies: Mapping[str, Policy],
    *,
    view: ClipView | None = None,
    epoch: int = 0,
    max_side: int | None = None,
) -> Clip:
    """Decode the frames that any peer needs once, change them and the truth alike, and give each peer its own.

    Args:
        row (`dict`): of [`ClipRows`].
        policies (`dict[str, ClipPolicy]`): for each peer its clip policy.
        view ([`ClipView`], *optional*): the shared random view; none for evaluation.
        epoch (`int`, *optional*, defaults to 0): of the view's draws.
        max_side (`int`, *optional*): to which longer sides are shrunk while decoding.

    Returns:
        [`Clip`]; clips of equal policies share memory, do not change them in place.

    Raises:
        [`DataError`]: a frame or its truth cannot be read (names the file).
    """
    video, target = row["source"], row["frame"]
    beside = row.get(BESIDE, target)
    numbers = {peer: clip_frames(target, video.shot(target), policy=policy) for peer, policy in policies.items()}
    union = sorted({number for clip in numbers.values() for number in clip})
    with video.open(max_side) as reader:
        frames = torch.from_numpy(reader.frames(union))
    if video.truth is None:
        density, points = np.zeros(frames.shape[1:3], np.float32), np.zeros((0, 2), np.float32)
    else:
        density, points = video.truth.density(target), video.truth.points(target)
        check_aspect((density.shape[0], density.shape[1]), (frames.shape[1], frames.shape[2]))
    if view is not None:
        both = points if beside == target or video.truth is None else [*points, *video.truth.points(beside)]
        # Neighbours are seen alike: drawn as the later one, and cropped only where that leaves something of both.
        drawn = row["sample_id"] + max(beside - target, 0)
        frames, density, points = view(frames, density, points, drawn, epoch, kept=np.reshape(both, (-1, 2)))
    places = {number: place for place, number in enumerate(union)}
    clips: dict[tuple[int, ...], Tensor] = {}
    for clip in map(tuple, numbers.values()):
        if clip not in clips:
            clips[clip] = frames[[places[number] for number in clip]]
    return Clip({peer: clips[tuple(clip)] for peer, clip in numbers.items()}, density, points)


class ClipView:
    """One random crop, flip and colour draw per unit, the same for all frames, all peers and the truth.

    The draw depends on the seed, the epoch and the sample id alone. A crop keeps the frame's aspect; one that would
    leave no fixation is not made.

    Args:
        neighbours (`bool`, *optional*, defaults to `False`): show the frame before each target as a unit of its own.
        min_area (`float`, *optional*, defaults to 0.6): smallest share of the area that a crop keeps, 1 for none.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the clips.
        color_jitter (`float`, *optional*, defaults to 0.0): strength of brightness, contrast and saturation changes.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Example:

    ```python
    >>> view = ClipView(min_area=1.0, color_jitter=0.2, seed=0)
    >>> seen, its_density, its_points = view(frames, density, points, sample_id=17, epoch=2)
    ```
    """

    def __init__(
        self,
        min_area: float = 0.6,
        flip: bool = True,
        color_jitter: float = 0.0,
        seed: int = 0,
        neighbours: bool = False,
    ):
        self.min_area, self.flip, self.seed, self.neighbours = min_area, flip, seed, neighbours
        self.color = v2.ColorJitter(*(color_jitter,) * 3) if color_jitter else None

    def __call__(
        self,
        frames: Tensor,
        density: np.ndarray,
        points: np.ndarray,
        sample_id: int,
        epoch: int,
        *,
        kept: np.ndarray | None = None,
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Frames uint8 `[T, H, W, 3]`, density `[h, w]` and points `[K, 2]`, all changed alike; of `kept`, the points
        unless given, a crop leaves some."""
        with draws_of(self.seed, epoch, sample_id):
            frames, density, points = self._cropped(frames, density, points, points if kept is None else kept)
            if self.flip and torch.rand(()) < 0.5:
                frames, density = frames.flip(2), np.ascontiguousarray(density[:, ::-1])
                points = points * [1, -1] + [0, density.shape[1] - 1]
            if self.color is not None:
                frames = self.color(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return frames.contiguous(), density, points.astype(np.float32)

    def _cropped(
        self, frames: Tensor, density: np.ndarray, points: np.ndarray, kept: np.ndarray
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """The crop is drawn on the density's pixels; the frames', which may be finer or coarser, follow it."""
        height, width = density.shape
        side = (self.min_area + (1 - self.min_area) * float(torch.rand(()))) ** 0.5
        rows, columns = max(1, round(height * side)), max(1, round(width * side))
        top = int(torch.randint(height - rows + 1, ()))
        left = int(torch.randint(width - columns + 1, ()))
        inside, stays = (
            ((some >= [top, left]) & (some <= [top + rows - 1, left + columns - 1])).all(1) for some in (points, kept)
        )
        if len(kept) and not stays.any():
            return frames, density, points
        down, across = frames.shape[1] / height, frames.shape[2] / width
        vertical = slice(round(top * down), max(round((top + rows) * down), round(top * down) + 1))
        horizontal = slice(round(left * across), max(round((left + columns) * across), round(left * across) + 1))
        part = as_density(density[top : top + rows, left : left + columns])
        return frames[:, vertical, horizontal], part, points[inside] - [top, left]
