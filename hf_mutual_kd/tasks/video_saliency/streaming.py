"""Saliency of videos of any length: one map per frame, in order, with memory for one clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...config.rules import check_numbers
from ...errors import ConfigError
from .data.clips import ClipPolicy, Policy, clip_frames

if TYPE_CHECKING:
    from .model.modeling_video_saliency import VideoSaliencyModel
    from .model.processing_video_saliency import MapKind, VideoSaliencyProcessor

START_PADDINGS = ("repeat", "reverse")
HISTOGRAM_BINS = 16
HISTOGRAM_SIDE = 64
"""Rows and columns of a frame that its histogram is taken of, about."""


@dataclass(frozen=True)
class Streaming:
    """How a window slides over a video.

    Args:
        start (`str`, *optional*, defaults to `"repeat"`): what comes before the first frame of a shot: the first frame
            again, or (`"reverse"`, for target `"last"`) the frames after the target, latest first. The latter looks
            ahead, so that the first map comes when a whole clip was read.
        stride (`int`, *optional*, defaults to 1): predict every so many frames of a shot; those between get the map
            before them.
        cut_threshold (`float`, *optional*, defaults to 0.5): [`cut_distance`] from which two frames are taken for
            different shots; `None`: no cuts.
        batch_size (`int`, *optional*, defaults to 1): windows that are predicted at once.

    Raises:
        [`ConfigError`]: a value breaks its rule.
    """

    start: Literal["repeat", "reverse"] = "repeat"
    stride: int = 1
    cut_threshold: float | None = 0.5
    batch_size: int = 1

    def __post_init__(self):
        check_numbers(stride=self.stride, batch_size=self.batch_size, cut_threshold=self.cut_threshold)
        if self.start not in START_PADDINGS:
            raise ConfigError(f"start must be one of {', '.join(START_PADDINGS)}, got {self.start!r}")


def stream_saliency(
    model: VideoSaliencyModel,
    processor: VideoSaliencyProcessor,
    *,
    frames: Iterable[Any],
    streaming: Streaming | None = None,
    kind: MapKind = "map",
    size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """Predict every frame of a video from a sliding window over it.

    A frame's window is that of the model's configuration (`num_frames`, `frame_stride`, `target`; a model with target
    `"all"` is asked for the last frame). At a cut the window starts anew, so that no clip spans two shots. Models that
    encode frame by frame encode each frame once. Answers are those of the model on the same windows one by one.

    Args:
        model ([`VideoSaliencyModel`]): is put into evaluation mode.
        processor ([`VideoSaliencyProcessor`]): its processor.
        frames (`Iterable`): PIL images or uint8 arrays `[H, W, 3]`, RGB; read one after the other.
        streaming ([`Streaming`], *optional*): where shots begin, how often is predicted, how many windows at once.
        kind (`str`, *optional*, defaults to `"map"`): `"map"`, `"density"` or `"log_density"`, see
            [`~VideoSaliencyProcessor.post_process`].
        size (`tuple[int, int]`, *optional*): H and W of the maps; each frame's own when unset.

    Returns:
        Iterator of `np.ndarray`: fp32 `[H, W]`, one per frame.

    Raises:
        [`ConfigError`]: `start` does not fit the model's target.
    """
    streaming = streaming or Streaming()
    config = model.config
    target: Literal["last", "center"] = "center" if config.target == "center" else "last"
    window = _window(ClipPolicy(config.num_frames, config.frame_stride, target), streaming.start)
    view = _View(model.eval(), processor, target)
    requests = _requests(_shots(frames, streaming.cut_threshold), view, window, streaming.stride)
    return _answers(requests, view, processor, kind=kind, size=size, batch_size=streaming.batch_size)


def cut_distance(first: np.ndarray, second: np.ndarray) -> float:
    """How different the colours of two frames are, from 0 (the same histograms) to 1 (no shared colours).

    Half the L1 distance of the histograms of red, green and blue in 16 bins, averaged over the three.

    Args:
        first (`np.ndarray` of shape `[H, W, 3]`): uint8.
        second (`np.ndarray` of shape `[H, W, 3]`): uint8, of any size.

    Example:

    ```python
    >>> black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    >>> cut_distance(black, white)
    1.0
    ```
    """
    return _distance(_histogram(first), _histogram(second))


class _Window(NamedTuple):
    """A clip policy and how far its clips reach, in frames."""

    policy: Policy
    before: int
    ahead: int
    first_ahead: int

    def needs(self, target: int) -> int:
        """The last frame that a target's clip needs, if the shot is long enough."""
        return target + (self.first_ahead if target < self.before else self.ahead)


def _window(policy: ClipPolicy, start: str) -> _Window:
    before, ahead = -policy.relative[0], policy.relative[-1]
    if start == "repeat":
        return _Window(policy, before, ahead, ahead)
    if policy.target != "last":
        raise ConfigError(f"start 'reverse' is for models that predict the last frame, this one: {policy.target}")

    def reversed_at_start(target: int, shot: range) -> list[int]:
        turned = target - shot.start < before
        return [target - offset if turned else target + offset for offset in policy.relative]

    return _Window(reversed_at_start, before, ahead, before)


@dataclass
class _View:
    """What the model makes of frames and clips of them."""

    model: VideoSaliencyModel
    processor: VideoSaliencyProcessor
    target: str

    @torch.no_grad()
    def keep(self, frame: Any) -> list[Tensor]:
        """What is kept of a frame while clips need it: its levels where they can be cached, else its pixels."""
        pixels = self.processor.frame(frame).to(self.model.device)
        if self.model.encoder.framewise:
            return self.model.encode(pixels[None, None])
        return [pixels[None, None]]

    @torch.no_grad()
    def predict(self, clips: list[list[list[Tensor]]]) -> Tensor:
        """Logits `[N, h, w]` of N clips of kept frames."""
        parts = range(len(clips[0][0]))
        if not self.model.encoder.framewise:
            pixels = torch.cat([torch.cat([frame[0] for frame in clip], 1) for clip in clips])
            return self.model(pixels, target=self.target).logits[:, 0]
        levels = [torch.cat([torch.cat([frame[part] for frame in clip], 2) for clip in clips]) for part in parts]
        height, width = self.processor.image_size
        return self.model.decode(levels, len(clips[0]), (height, width), self.target)[0][:, 0]


class _Request(NamedTuple):
    """One frame's size and its clip, or no clip where the map before is to be used again."""

    size: tuple[int, int]
    clip: list[list[Tensor]] | None


class _Kept(NamedTuple):
    size: tuple[int, int]
    content: list[Tensor]


def _shots(frames: Iterable[Any], threshold: float | None) -> Iterator[tuple[Any, bool]]:
    """Every frame, and whether a shot begins with it."""
    before = None
    for frame in frames:
        pixels = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
        now = None if threshold is None else _histogram(pixels)
        cut = before is not None and now is not None and threshold is not None and _distance(before, now) >= threshold
        yield pixels, cut
        before = now


def _requests(frames: Iterable[tuple[Any, bool]], view: _View, window: _Window, stride: int) -> Iterator[_Request]:
    kept: deque[_Kept] = deque()
    first = count = target = 0

    def ready(complete: bool) -> Iterator[_Request]:
        nonlocal first, target
        while target < count and (complete or window.needs(target) < count):
            clip = None
            if target % stride == 0:
                numbers = clip_frames(target, range(count), policy=window.policy)
                clip = [kept[number - first].content for number in numbers]
            yield _Request(kept[target - first].size, clip)
            target += 1
            while kept and first < target - window.before:
                kept.popleft()
                first += 1

    for frame, cut in frames:
        if cut:
            yield from ready(complete=True)
            kept.clear()
            first = count = target = 0
        kept.append(_Kept(frame.shape[:2], view.keep(frame)))
        count += 1
        yield from ready(complete=False)
    yield from ready(complete=True)


def _answers(
    requests: Iterable[_Request],
    view: _View,
    processor: VideoSaliencyProcessor,
    *,
    kind: MapKind,
    size: tuple[int, int] | None,
    batch_size: int,
) -> Iterator[np.ndarray]:
    waiting: list[_Request] = []
    last: Tensor | None = None

    def answer() -> Iterator[np.ndarray]:
        nonlocal last
        clips = [request.clip for request in waiting if request.clip is not None]
        found = iter(view.predict(clips)) if clips else iter(())
        for request in waiting:
            last = next(found) if request.clip is not None else last
            yield processor.post_process(last, size or request.size, kind=kind).cpu().numpy()
        waiting.clear()

    for request in requests:
        waiting.append(request)
        if len(waiting) == batch_size:
            yield from answer()
    yield from answer()


def _histogram(frame: np.ndarray) -> np.ndarray:
    """Shares of 16 bins of each colour, `[3, 16]`."""
    rows, columns = (max(1, n // HISTOGRAM_SIDE) for n in frame.shape[:2])
    bins = (frame[::rows, ::columns] >> 4).reshape(-1, 3) + np.arange(3) * HISTOGRAM_BINS
    return np.bincount(bins.ravel(), minlength=3 * HISTOGRAM_BINS).reshape(3, -1) * (3 / bins.size)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).sum(1).mean() / 2)


__all__ = ["Streaming", "cut_distance", "stream_saliency"]
