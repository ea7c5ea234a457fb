"""Batches of sounds: one crop for all peers, then each peer's own sampling rate and feature extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config.rules import check_numbers
from ...data.audio import SOUNDS, Sound, resampled
from ...data.collator import RoleTaggingCollator
from ...data.processors import PeerProcessors, is_plain
from ...data.views import draws_of

LONGEST_SECONDS = 30.0
"""Of a sound, where nothing is drawn: what Whisper hears at most."""
RATE = 16_000
"""Samples in a second of what a callable is given that does not say its `sampling_rate`."""
LENGTHS = "lengths"
"""What a batch says beside what a model takes: int `[B]`, where inputs are padded and no mask says so, or too far."""


class SharedCrop:
    """
    One random stretch of each sound, in seconds, the same whatever peer, worker or process listens to it.

    Args:
        seconds (`float`): how long it is; shorter sounds stay whole.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Example:

    ```python
    >>> SharedCrop(2.0)(Sound(wave, 44_100), sample_id=17, epoch=2).seconds
    2.0
    ```
    """

    def __init__(self, seconds: float, seed: int = 0):
        check_numbers(seconds=seconds)
        self.seconds, self.seed = seconds, seed

    def __call__(self, sound: Sound, sample_id: int, epoch: int) -> Sound:
        with draws_of(self.seed, epoch, sample_id):
            place = float(torch.rand(()))
        return sound.part(place * max(0.0, sound.seconds - self.seconds), self.seconds)


class Extractors(PeerProcessors):
    """Every peer's feature extractor, each sound in the peer's sampling rate and by itself, as a pipeline gives it."""

    noun = "feature extractor"
    makes = "sounds, a list of float32 [T] of its `sampling_rate` -> {'input_values': [B, L]}"

    def run(self, processor: Any, inputs: Sequence[Sound]) -> dict[str, Tensor]:
        """
        What one extractor makes of the sounds, shorter ones padded; [`LENGTHS`] where nothing else says how far.

        With `fixed_size` they are padded to the longest that there may be, and a model gets them shorter.

        Example:

        ```python
        >>> Extractors({"a": extractor})([Sound(wave, 8_000), Sound(shorter, 44_100)])["a"]["input_values"].shape
        torch.Size([2, 16000])
        ```
        """
        rate = getattr(processor, "sampling_rate", RATE)
        waves = [resampled(sound, rate) for sound in inputs]
        if is_plain(processor):
            return dict(processor(waves))
        rows = [dict(processor(wave, sampling_rate=rate, return_tensors="np")) for wave in waves]
        name = processor.model_input_names[0]
        lengths = torch.tensor([row[name].shape[1] for row in rows])
        is_fixed = self.fixed_size and window_of(processor) is None
        if len(set(lengths.tolist())) == 1 and not is_fixed:
            return {key: torch.from_numpy(np.concatenate([row[key] for row in rows])) for key in rows[0]}
        size: dict[str, Any] = {"padding": True}
        if is_fixed:
            longest = processor(np.zeros(int(rate * LONGEST_SECONDS), np.float32), sampling_rate=rate)
            size = {"padding": "max_length", "max_length": len(longest[name][0])}
        padded = dict(processor.pad({name: [row[name][0] for row in rows]}, **size, return_tensors="pt"))
        return padded if len(padded) > 1 and not is_fixed else {**padded, LENGTHS: lengths}


def window_of(extractor: Any) -> float | None:
    """Seconds of a sound to which an extractor cuts and pads each, as Whisper's and AST's do; `None` of others."""
    samples, frames = getattr(extractor, "n_samples", None), getattr(extractor, "max_length", None)
    if samples:
        return samples / extractor.sampling_rate
    # Kaldi's frames: one begins every 10 ms and lasts 25.
    return frames / 100 + 0.015 if frames and hasattr(extractor, "num_mel_bins") else None


def by_length(inputs: Mapping[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """
    A padded batch as batches without padding, with masks as one: the places of their rows, and what a model takes.

    Example:

    ```python
    >>> batch = {"input_values": torch.tensor([[1, 2, 3], [4, 5, 0]]), "lengths": torch.tensor([3, 2])}
    >>> [(rows.tolist(), given["input_values"].tolist()) for rows, given in by_length(batch)]
    [([1], [[4, 5]]), ([0], [[1, 2, 3]])]
    ```
    """
    given = {key: value for key, value in inputs.items() if key != LENGTHS}
    lengths = inputs[LENGTHS]
    if "attention_mask" in given:
        every = torch.arange(len(lengths), device=lengths.device)
        return [(every, {key: value[:, : int(lengths.max())] for key, value in given.items()})]
    parts = [(length, (lengths == length).nonzero()[:, 0]) for length in lengths.unique().tolist()]
    return [(rows, {key: value[rows, :length] for key, value in given.items()}) for length, rows in parts]


class AudioCollator(RoleTaggingCollator):
    """Rows with `audio`; where nothing is drawn, the first 30 seconds of each."""

    inputs = SOUNDS
    processors_class = Extractors

    def sample(self, row: Mapping[str, Any], image: Sound) -> tuple[Sound, Any]:
        return super().sample(row, image if self.view is not None else image.part(0, LONGEST_SECONDS))
