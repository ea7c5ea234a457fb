"""What is said of video classification."""

from __future__ import annotations

from ..classification.words import classification_words

SNIPPET = """from transformers import pipeline

classifier = pipeline("video-classification", model={model})
for guess in classifier({example}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""
VJEPA2 = SNIPPET.replace("top_k=3", "top_k=3, num_frames=classifier.model.config.frames_per_clip")

WORDS = classification_words(
    "video classification",
    snippet=SNIPPET,
    snippets={"vjepa2": VJEPA2},
    processor="video_processor",
    auto_model="AutoModelForVideoClassification",
    example="video.mp4",
    pipeline_tag="video-classification",
)
