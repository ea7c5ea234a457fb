"""Tiny video classifiers that see 4 or 8 frames, and clips made by a law."""

import functools
import io

import av
import numpy as np
import torch
from data_sets import save_drawn
from datasets import ClassLabel, Dataset, Features, Value, Video
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
)
from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
from transformers.models.videomae.video_processing_videomae import VideoMAEVideoProcessor
from transformers.models.vivit.video_processing_vivit import VivitVideoProcessor
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec
from hf_mutual_kd.tasks.video_classification.task import frames_seen

MOVES = ["down", "left", "right"]
FILE = {"bytes": Value("binary"), "path": Value("string")}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SIZE = {"size": {"height": 16, "width": 16}, "crop_size": {"height": 16, "width": 16}}


def labels_of(names) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


def tiny_video_peer(kind: str, names=MOVES):
    """`videomae` and `vjepa2` see 8 frames, `timesformer` and `vivit` 4; all 16 x 16 pixels."""
    torch.manual_seed(len(kind))
    size = {"image_size": 16, "patch_size": 8}
    if kind == "videomae":
        config = VideoMAEConfig(num_frames=8, **size, **SMALL, **labels_of(names))
        return VideoMAEForVideoClassification(config), VideoMAEVideoProcessor(**SIZE)
    if kind == "timesformer":
        config = TimesformerConfig(num_frames=4, **size, **SMALL, **labels_of(names))
        return TimesformerForVideoClassification(config), TimesformerVideoProcessor(**SIZE)
    if kind == "vivit":
        config = VivitConfig(num_frames=4, image_size=16, tubelet_size=[2, 8, 8], **SMALL, **labels_of(names))
        return VivitForVideoClassification(config), VivitVideoProcessor(**SIZE)
    config = VJEPA2Config(
        crop_size=16,
        patch_size=8,
        frames_per_clip=8,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_pooler_layers=1,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
        **labels_of(names),
    )
    return VJEPA2ForVideoClassification(config), VJEPA2VideoProcessor(crop_size=16)


def save_video_peers(folder, kinds=("videomae", "timesformer"), names=MOVES) -> dict[str, str]:
    """Folders of them, by their kinds."""
    for kind in kinds:
        for part in tiny_video_peer(kind, names):
            part.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in kinds}


def mp4_of(frames: np.ndarray, rate: int = 8) -> bytes:
    """uint8 `[T, H, W, 3]` as MP4."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def made_clip(label: int, draw: np.random.Generator, count: int = 12) -> np.ndarray:
    """The law: a bright square of 10 pixels on a dark ground of 32 x 48 moves down, left or right."""
    frames = np.full((count, 32, 48, 3), 30, np.uint8)
    top, left = int(draw.integers(4, 12)), int(draw.integers(8, 20))
    down, right = [(1, 0), (0, -1), (0, 1)][label]
    for place, frame in enumerate(frames):
        at = (top + down * place) % 22, (left + right * place) % 38
        frame[at[0] : at[0] + 10, at[1] : at[1] + 10] = draw.integers(180, 250, 3)
    return frames


@functools.cache  # an encoder does not promise the same bytes again
def video_rows(count: int, seed: int = 0, one_in: int = 1) -> Dataset:
    """Clips of 9 to 14 frames; one in so many rows has its label."""
    draw = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        label = place % len(MOVES)
        made = made_clip(label, draw, int(draw.integers(9, 15)))
        rows.append({"video": {"bytes": mp4_of(made), "path": None}, "label": label if place % one_in == 0 else -1})
    features = Features({"video": FILE, "label": ClassLabel(names=MOVES)})
    return Dataset.from_list(rows, features).cast_column("video", Video())


save_video_rows = functools.partial(save_drawn, video_rows, sizes={"train": 12, "validation": 6, "test": 9})


def video_cohort(kinds=("videomae", "timesformer")) -> Cohort:
    """A cohort of modules."""
    peers = {}
    for kind in kinds:
        model, processor = tiny_video_peer(kind)
        processor.num_frames = frames_seen(model)
        peers[kind] = LoadedPeer(model, processor, PeerSpec(kind))
    return Cohort(peers, "video-classification", label_names=MOVES)
