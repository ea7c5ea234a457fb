"""Video classification on the page: a video and its label, bars of the peers' guesses."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
import torch
from classification_view import ClassificationView
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from uploads import check_file
from videos import MOST_FILE, TOO_MUCH, decoded
from view import path_of


class VideoView(ClassificationView):
    """A visitor gives a video."""

    auto_models = (AutoModelForVideoClassification,)
    sample_component = "video"
    most_file = MOST_FILE

    def subject_input(self) -> Any:
        video = gr.Video(sources=["upload"], label="Video", height=260, buttons=[], elem_id="upload")
        video.preprocess = path_of  # type: ignore[method-assign]
        return video

    def sample_value(self, sample: dict[str, Any]) -> str:
        return str(self.folder / sample["video"])

    def sample_shown(self, sample: dict[str, Any]) -> str:
        return self.sample_value(sample)

    def subject(self, given: str | None) -> Any:
        """
        Frames by their number, and over how many they are spread.

        Raises:
            [`~uploads.Refused`]: no file, too large, no video, or damaged.
        """
        path = check_file(given, "video", MOST_FILE)
        counts = sorted({peer["frames"] for peer in self.facts["peers"]})
        reply, content = decoded("decode_clip", {"path": path, "counts": counts}, TOO_MUCH)
        pixels = np.frombuffer(content, np.uint8).reshape(len(reply["numbers"]), *reply["size"], 3)
        return dict(zip(reply["numbers"], pixels, strict=True)), reply["count"]

    def load_processor(self, source: str, revision: str | None) -> Any:
        return AutoVideoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)

    def inputs(self, processor: Any, subject: Any) -> dict[str, Any]:
        frames, count = subject
        wanted = processor.num_frames
        clip = np.stack([frames[place * count // wanted] for place in range(wanted)])
        shown = torch.from_numpy(clip).permute(0, 3, 1, 2)
        return processor([shown], do_sample_frames=False, return_tensors="pt")


VIEW = VideoView
