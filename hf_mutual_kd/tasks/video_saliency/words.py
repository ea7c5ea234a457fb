"""What is said of video saliency."""

from __future__ import annotations

from ...reports.task_words import TaskWords

SNIPPET = """import torch
from transformers import AutoModel, AutoProcessor
from transformers.video_utils import load_video

processor = AutoProcessor.from_pretrained({model}, trust_remote_code=True)
model = AutoModel.from_pretrained({model}, trust_remote_code=True).eval()
frames, _ = load_video({example}, backend="pyav")  # [frames, height, width, 3]
clip = frames[-processor.num_frames * processor.frame_stride :][:: processor.frame_stride]
with torch.inference_mode():
    logits = model(**processor(clip)).logits
maps = processor.post_process(logits, size=frames.shape[1:3])  # where people look, 0 to 1"""

WORDS = TaskWords(
    title="video saliency",
    metric="CC",
    shown={
        "CC": "CC",
        "SIM": "SIM",
        "NSS": "NSS",
        "AUC-J": "AUC-J",
        "sAUC": "sAUC",
        "KLD": "KLD, nats (smaller is better)",
    },
    hub_metrics={name: (name, name) for name in ("CC", "SIM", "NSS", "AUC-J", "sAUC", "KLD")},
    points="in CC",
    snippet=SNIPPET,
    example="video.mp4",
    kept="CC",
    alike="CC with PyTorch",
    tags=("video-saliency", "saliency"),
    note=(
        "CC, SIM and KLD compare with the map of where people looked, NSS, AUC-J and sAUC with the single "
        "fixations. Means over the frames that were measured; the negatives of sAUC are the fixations in the "
        "training videos."
    ),
    counted="videos",
    examples=(
        "Where people looked at the frame, and where each peer says that they look: the lighter, the likelier, "
        "relative to each map's peak. The number is the CC with the truth."
    ),
)
