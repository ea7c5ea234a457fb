"""Which frames a model sees for a target frame: clip policies as pure functions of numbers."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ....errors import ConfigError


@dataclass(frozen=True)
class ClipPolicy:
    """The frames of a clip, relative to its target frame (whose saliency is predicted).

    Args:
        frames (`int`, *optional*, defaults to 16): T, at least 1.
        stride (`int`, *optional*, defaults to 1): distance of neighbours in frames, at least 1.
        target (`str`, *optional*, defaults to `"last"`): `"last"`: the clip ends with the target and sees the past
            only; `"center"`: the target is number `T // 2` (from 0), so that the clip looks
            `(T - 1 - T // 2) * stride` frames ahead.
        offsets (`tuple[int, ...]`, *optional*): own distances to the target instead, in any order; `frames` is then
            their number.

    Raises:
        [`ConfigError`]: a value breaks its rule.

    Example:

    ```python
    >>> ClipPolicy(4).relative
    (-3, -2, -1, 0)
    >>> ClipPolicy(4, stride=2, target="center").relative
    (-4, -2, 0, 2)
    >>> ClipPolicy(offsets=(-8, -1, 0)).frames
    3
    ```
    """

    frames: int = 16
    stride: int = 1
    target: Literal["last", "center"] = "last"
    offsets: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.offsets is not None:
            if not self.offsets or not all(isinstance(offset, int) for offset in self.offsets):
                raise ConfigError(f"offsets of a clip must be one or more whole numbers, got {self.offsets!r}")
            object.__setattr__(self, "offsets", tuple(self.offsets))
            object.__setattr__(self, "frames", len(self.offsets))
        if self.frames < 1 or self.stride < 1:
            raise ConfigError(f"frames and stride of a clip must be 1 or more, got {self.frames} and {self.stride}")
        if self.target not in ("last", "center"):
            raise ConfigError(f"target of a clip must be last or center, got {self.target!r}")

    @property
    def relative(self) -> tuple[int, ...]:
        """Distances of the clip's frames to the target, in frames."""
        if self.offsets is not None:
            return self.offsets
        before = self.frames - 1 if self.target == "last" else self.frames // 2
        return tuple((place - before) * self.stride for place in range(self.frames))


Policy = ClipPolicy | Callable[[int, range], Sequence[int]]
"""Distances, or any function of the target frame and its shot."""


def clip_frames(target: int, shot: range, *, policy: Policy) -> list[int]:
    """Numbers of the frames that a clip is made of; frames outside the shot become its first or last.

    Args:
        target (`int`): number of the frame whose saliency is wanted, from 0, in `shot`.
        shot (`range`): the frames between two cuts; `range(length)` where there are none. See [`shot_of`].
        policy ([`ClipPolicy`] or callable): a callable takes `(target, shot)` and gives numbers of frames.

    Returns:
        `list[int]` of length T, every number in `shot`.

    Raises:
        [`ConfigError`]: the target is not in the shot, or a callable gave no frames.

    Example:

    ```python
    >>> clip_frames(2, range(100), policy=ClipPolicy(5))
    [0, 0, 0, 1, 2]
    >>> clip_frames(41, range(40, 43), policy=ClipPolicy(6, target="center"))
    [40, 40, 40, 41, 42, 42]
    ```
    """
    if target not in shot:
        raise ConfigError(f"target frame {target} is not in its shot, frames {shot.start} to {shot.stop - 1}")
    if isinstance(policy, ClipPolicy):
        wanted: Iterable[int] = (target + offset for offset in policy.relative)
    else:
        wanted = policy(target, shot)
    clip = [min(max(int(frame), shot.start), shot.stop - 1) for frame in wanted]
    if not clip:
        raise ConfigError(f"the clip policy {policy!r} gave no frames for target {target}")
    return clip


def shot_of(target: int, length: int, cuts: Sequence[int] = ()) -> range:
    """The shot that a frame belongs to.

    Args:
        target (`int`): number of a frame, from 0.
        length (`int`): frames of the video.
        cuts (`Sequence[int]`, *optional*): ascending numbers of the frames that begin a new shot; 0 may be left out.

    Example:

    ```python
    >>> shot_of(40, 100, cuts=(40, 77))
    range(40, 77)
    ```
    """
    after = bisect_right(cuts, target)
    first = cuts[after - 1] if after else 0
    return range(first, cuts[after] if after < len(cuts) else length)


def training_target(frames: Sequence[int], seed: int, epoch: int, video: str) -> int:
    """One of `frames`, drawn by seed, epoch and the video's name alone: the same in every process and worker."""
    return frames[random.Random(f"{seed}/{epoch}/{video}").randrange(len(frames))]


def evaluation_targets(frames: Sequence[int], every: int) -> list[int]:
    """The first of `frames` and every `every`-th after it; DHF1K's local validation takes every 32nd.

    Raises:
        [`ConfigError`]: `every` is below 1.

    Example:

    ```python
    >>> evaluation_targets(range(100), 32)
    [0, 32, 64, 96]
    ```
    """
    if every < 1:
        raise ConfigError(f"evaluation takes every k-th frame with k of 1 or more, got {every}")
    return list(frames[::every])
