"""The data collator for clips: decodes the frames of a unit once, draws one view, and runs the peers' processors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...data.collator import BLANK, SAMPLE_ID, RoleTaggingCollator
from ...data.processors import PeerInputs, PeerProcessors, is_plain
from ...errors import DataError
from .data.clip_rows import BESIDE, Clip, load_clip
from .data.clips import ClipPolicy, Policy, clip_frames
from .data.truth_batches import NO_GAZE, UNREADABLE, as_truth, join_truths

DETAIL = 2
"""Frames whose longer side is more than this many times what any peer sees are shrunk while they are decoded."""


FOLLOWS = "follows"
"""What a batch says beside what a model takes: bool `[B]`, the units whose target comes after that of the unit before,
under the same view."""


def with_neighbour(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A unit with the frame before its target as another, where that is of the same shot."""
    frame, video = row["frame"], row["source"]
    if frame - 1 not in video.shot(frame):
        return [row]
    name = f"{video.name} frame {frame - 1}"
    before = {**row, "frame": frame - 1, SAMPLE_ID: row[SAMPLE_ID] - 1, "name": name, BESIDE: frame}
    return [before, {**row, BESIDE: frame - 1}]


def clip_policy(processor: Any) -> Policy:
    """
    Which frames a peer sees: the `clip_policy` of its processor, or what a `VideoSaliencyProcessor` says.

    A plain callable without the attribute gets a [`ClipPolicy`] of 16 frames, which end
    with the target.
    """
    if (own := getattr(processor, "clip_policy", None)) is not None:
        return own
    frames, stride = getattr(processor, "num_frames", None), getattr(processor, "frame_stride", 1)
    # A model that answers for all frames is asked for the last one.
    target: Literal["last", "center"] = "center" if getattr(processor, "target", "last") == "center" else "last"
    return ClipPolicy() if frames is None else ClipPolicy(frames, stride, target)


class ClipProcessors(PeerProcessors):
    """Every peer's processor on its own clips, run once for all peers whose processors agree."""

    def __init__(self, processors: Mapping[str, Any]):
        super().__init__(processors)
        self.policies = {name: clip_policy(processor) for name, processor in processors.items()}

    def __call__(self, clips: Sequence[Clip]) -> PeerInputs:
        inputs: dict[str, Mapping[str, Tensor]] = {}
        for processor, names in self.groups:
            frames = [clip.frames[names[0]] for clip in clips]
            inputs.update(dict.fromkeys(names, self.run(processor, frames)))
        return PeerInputs({name: inputs[name] for name in self.names})

    def keep(self, names: Collection[str]) -> None:
        super().keep(names)
        self.policies = {name: self.policies[name] for name in self.names}

    def run(self, processor: Any, images: Sequence[Any]) -> dict[str, Tensor]:
        return dict(processor(images) if is_plain(processor) else processor(images, return_tensors="pt"))

    @cached_property
    def max_side(self) -> int | None:
        """To which longer sides are shrunk while decoding; `None` where a peer does not say what it needs."""
        sizes: list[Any] = [getattr(processor, "image_size", None) for processor, _ in self.groups]
        return DETAIL * max(int(np.max(size)) for size in sizes) if all(sizes) else None


class ClipCollator(RoleTaggingCollator):
    """Turns units of [`ClipRows`] into one batch for all peers.

    Every peer gets its own clip of the same moment, under the same random view, from frames that are decoded once.

    Args: as [`RoleTaggingCollator`]; the view is a
        [`ClipView`]. A peer's processor takes a list of clips, uint8 `[T, H, W, 3]`,
        and says by its `clip_policy`, or by `num_frames`, `frame_stride` and `target`, which frames these are.

    Returns:
        `dict`: `peer_inputs` `{peer: {"pixel_values": [B, T, 3, h, w]}}`, each peer's own T, h and w; `labels` float32
        `[B, 2, H, W]` of [`truth_batches`]; `sample_ids` `[B]` and `roles` `[B]`.

    Raises:
        [`DataError`]: an unreadable frame or truth, named by its video and frame.

    Example:

    ```python
    >>> collator = ClipCollator(cohort.processors)
    >>> batch = collator([ClipRows(splits.test, every=8)[0]])
    >>> batch["labels"].shape, batch["peer_inputs"]["s3d"]["pixel_values"].shape
    (torch.Size([1, 2, 64, 112]), torch.Size([1, 8, 3, 64, 112]))
    ```
    """

    processors_class = ClipProcessors
    processors: ClipProcessors

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, PeerInputs | Tensor]:
        if not getattr(self.view, "neighbours", False):
            return super().__call__(rows)
        batch: dict[str, Any] = super().__call__([unit for row in rows for unit in with_neighbour(row)])
        ids, follows = batch["sample_ids"], torch.zeros(len(batch["sample_ids"]), dtype=torch.bool)
        follows[1:] = ids[1:] == ids[:-1] + 1
        inputs = {name: {**given, FOLLOWS: follows} for name, given in batch["peer_inputs"].items()}
        return {**batch, "peer_inputs": PeerInputs(inputs)}

    def _read(self, row: Mapping[str, Any]) -> tuple[Clip, Tensor] | None:
        view: Any = self.view
        try:
            clip = load_clip(
                row, self.processors.policies, view=view, epoch=int(self._epoch), max_side=self.processors.max_side
            )
        except DataError as error:
            if self.on_bad_row == "skip":
                self._skipped += 1
                return None
            raise DataError(
                f"frame {row['frame']} of video {row['video']} (sample {row[SAMPLE_ID]}) cannot be read ({error}); "
                "mend it, or leave such frames out with --on_bad_row skip"
            ) from error
        truth = as_truth(clip.density, clip.points)
        return clip, truth if row["source"].has_gaze else torch.full_like(truth, NO_GAZE)

    def blank(self) -> tuple[Clip, Tensor]:
        frames = {
            name: torch.zeros(len(clip_frames(0, range(1), policy=policy)), *BLANK, 3, dtype=torch.uint8)
            for name, policy in self.processors.policies.items()
        }
        return Clip(frames, np.zeros(BLANK, np.float32), np.zeros((0, 2))), torch.full((2, *BLANK), UNREADABLE)

    def join(self, labels: Sequence[Tensor]) -> Tensor:
        return join_truths(labels)
