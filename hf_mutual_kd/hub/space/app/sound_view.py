"""Audio classification on the page: a sound and its label, bars of the peers' guesses."""

from __future__ import annotations

from typing import Any

import av
import gradio as gr
import numpy as np
from classification_view import ClassificationView
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from uploads import check_file
from videos import decoded
from view import path_of

MOST_SECONDS = 30.0
"""Of a sound; peers hear less."""
SHORTEST_SECONDS = 0.3
"""Shorter sounds go on with silence."""
TOO_MUCH = "The sound takes too much time or memory to decode; send a shorter one, as WAV or MP3."


class SoundView(ClassificationView):
    """A visitor gives a sound."""

    auto_models = (AutoModelForAudioClassification,)
    sample_component = "audio"

    def subject_input(self) -> Any:
        sound = gr.Audio(
            type="filepath", sources=["upload"], label="Sound", buttons=[], editable=False, elem_id="upload"
        )
        sound.preprocess = path_of  # type: ignore[method-assign]
        return sound

    def sample_value(self, sample: dict[str, Any]) -> str:
        return str(self.folder / sample["sound"])

    def sample_shown(self, sample: dict[str, Any]) -> str:
        return self.sample_value(sample)

    def subject(self, given: str | None) -> Any:
        """
        The rate and the waveform.

        Raises:
            [`~uploads.Refused`]: no file, too large, no sound in it, or damaged.
        """
        path = check_file(given, "sound", self.most_file)
        reply, content = decoded("decode_sound", {"path": path, "seconds": MOST_SECONDS}, TOO_MUCH)
        wave = np.frombuffer(content, np.float32)
        missing = round(SHORTEST_SECONDS * reply["rate"]) - len(wave)
        return reply["rate"], np.pad(wave, (0, max(0, missing)))

    def load_processor(self, source: str, revision: str | None) -> Any:
        return AutoFeatureExtractor.from_pretrained(source, revision=revision, trust_remote_code=False)

    def inputs(self, processor: Any, subject: Any) -> dict[str, Any]:
        rate, wave = subject
        wanted = processor.sampling_rate
        return processor(resampled(wave, rate, wanted), sampling_rate=wanted, return_tensors="pt")


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A waveform in another number of samples a second."""
    if rate == wanted:
        return wave
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    return np.concatenate([part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))])


VIEW = SoundView
