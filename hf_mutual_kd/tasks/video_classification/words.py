"""What is said of video classification."""

from __future__ import annotations

from ..classification.words import classification_words, pipeline_snippet

VJEPA2 = pipeline_snippet("video-classification", "top_k=3, num_frames=classifier.model.config.frames_per_clip")

WORDS = classification_words(
    "video classification",
    snippet=pipeline_snippet("video-classification"),
    snippets={"vjepa2": VJEPA2},
    processor="video_processor",
    auto_model="AutoModelForVideoClassification",
    example="video.mp4",
    pipeline_tag="video-classification",
)
