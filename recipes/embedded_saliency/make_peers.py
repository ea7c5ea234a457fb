"""Train the embedded saliency models, three of different encoders: `python recipes/embedded_saliency/make_peers.py`.

They learn from clips that are made for them by the law of `make_data.py`, with backgrounds and sprites that no shipped
split has. With the same libraries, machine and number of threads, retraining gives the same weights up to float noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Without binding, two torch threads are slow at random; the runtime reads this when torch is imported.
if __name__ == "__main__":
    os.environ.setdefault("OMP_PROC_BIND", "true")
    os.environ.setdefault("OMP_PLACES", "cores")
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")

import numpy as np
import torch
from make_data import HEIGHT, OBSERVERS, SEED, SIGMA, SPRITES, WIDTH, draw, make_shot, read_sprites, watch
from tqdm import tqdm
from transformers import ConvNextConfig, VideoMAEConfig, logging

from hf_mutual_kd import (
    ClipPolicy,
    ClipRows,
    RecipeOptions,
    VideoSaliencyConfig,
    VideoSaliencyModel,
    VideoSaliencyProcessor,
    cc,
    clip_frames,
    fixation_density,
    load_clip,
    load_videos,
    staged,
)

HERE = Path(__file__).resolve().parent
CLIPS, LENGTH = 240, 40
BATCH_SIZE, WEIGHT_DECAY, CLIP = 8, 0.05, 5.0
MOVED = 0.2
"""Mean change of a frame's bytes from the frame before, above which something moves in it."""
MOTION_FRAMES = 10
"""A frame counts as moving when something moved in so many frames before it."""

DECODER = {
    "decoder_channels": [48, 32, 24, 16],
    "decoder_groups": 4,
    "attention_heads": 4,
    "image_size": (HEIGHT, WIDTH),
}


@dataclass(frozen=True)
class PeerRecipe:
    """How one peer is made.

    Args:
        knows (`str`): what it learns from, in words.
        frames (`Callable`): whether something moves, bool `[frames]`, to the frames it learns from, bool `[frames]`.
        build (`Callable`): its configuration.
        learning_rate (`float`): peak of its one-cycle schedule.
        steps (`int`): of `BATCH_SIZE` clips.
    """

    knows: str
    frames: Callable[[np.ndarray], np.ndarray]
    build: Callable[[], VideoSaliencyConfig]
    learning_rate: float
    steps: int


def build_convnext() -> VideoSaliencyConfig:
    """A ConvNeXt that sees frame by frame; layer scale starts at 0.1 because 1e-6 is made for longer training."""
    encoder = ConvNextConfig(
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
        layer_scale_init_value=0.1,
        out_indices=[1, 2, 3, 4],
    )
    return VideoSaliencyConfig("frame_backbone", encoder, num_frames=4, frame_stride=2, **DECODER)


def build_videomae() -> VideoSaliencyConfig:
    """A VideoMAE encoder of four layers on patches of 8 x 8 pixels and two frames."""
    encoder = VideoMAEConfig(
        image_size=64,
        patch_size=8,
        num_frames=4,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
    )
    return VideoSaliencyConfig("transformers_video", encoder, num_frames=4, frame_stride=2, **DECODER)


def build_swin3d() -> VideoSaliencyConfig:
    """A Video Swin of torchvision with a block in each stage."""
    kwargs = {
        "patch_size": [2, 4, 4],
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 4],
        "window_size": [4, 4, 4],
        "mlp_ratio": 2.0,
        "stochastic_depth_prob": 0.0,
    }
    return VideoSaliencyConfig(encoder_name="SwinTransformer3d", encoder_kwargs=kwargs, num_frames=8, **DECODER)


PEERS = {
    "convnext": PeerRecipe("frames before which nothing moved", np.logical_not, build_convnext, 3e-3, 700),
    "videomae": PeerRecipe("frames before which something moved", np.asarray, build_videomae, 2e-3, 700),
    "swin3d": PeerRecipe("every third frame", lambda moves: np.arange(len(moves)) % 3 == 0, build_swin3d, 2e-3, 700),
}


@dataclass(frozen=True)
class MadeClip:
    """One made clip of a single shot: frames uint8 `[L, H, W, 3]`, fixations of every frame, and what moves."""

    frames: np.ndarray
    points: list[np.ndarray]
    moves: np.ndarray


def make_clips(count: int) -> list[MadeClip]:
    """Clips by the law of the shipped data, of the sprites that pretraining of the classifiers uses."""
    pictures, kinds = read_sprites(SPRITES / "pretrain.parquet")
    clips = []
    for number in tqdm(range(count), desc="clips", unit="clip"):
        rng = np.random.default_rng([SEED, len(SPRITES.name), number])
        shot = make_shot(rng, LENGTH, pictures, kinds)
        gaze = np.stack([watch(rng, [shot]) for _ in range(OBSERVERS)], axis=1)
        frames = np.stack([draw(shot, frame) for frame in range(LENGTH)])
        changed = np.abs(np.diff(frames.astype(np.int16), axis=0, prepend=frames[:1])).mean((1, 2, 3)) > MOVED
        moves = np.array([changed[max(0, at - MOTION_FRAMES) : at + 1].any() for at in range(LENGTH)])
        clips.append(MadeClip(frames, [points[np.isfinite(points).all(1)] for points in gaze], moves))
    return clips


def train(model: VideoSaliencyModel, clips: list[MadeClip], recipe: PeerRecipe, name: str) -> None:
    """Train with AdamW on a one-cycle schedule, in place; half of the clips are mirrored."""
    processor = VideoSaliencyProcessor.for_model(model.config)
    policy = ClipPolicy(processor.num_frames, processor.frame_stride)
    units = [(clip, frame) for clip in clips for frame in np.flatnonzero(recipe.frames(clip.moves)).tolist()]
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps)
    model.train()
    progress = tqdm(range(recipe.steps), desc=name, unit="step")
    for step in progress:
        batch = [units[place] for place in rng.integers(len(units), size=BATCH_SIZE)]
        frames = [clip.frames[clip_frames(frame, range(LENGTH), policy=policy)] for clip, frame in batch]
        pixels = processor(frames)["pixel_values"]
        truth = torch.from_numpy(
            np.stack([fixation_density(clip.points[frame], (HEIGHT, WIDTH), sigma=SIGMA) for clip, frame in batch])
        )
        flipped = torch.from_numpy(rng.random(BATCH_SIZE) < 0.5)
        pixels[flipped], truth[flipped] = pixels[flipped].flip(-1), truth[flipped].flip(-1)
        loss = model(pixels, labels=truth).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")


@torch.no_grad()
def measure(folder: Path, rows: ClipRows) -> float:
    """Mean CC of a saved peer, loaded as a user would load it."""
    model = VideoSaliencyModel.from_pretrained(folder).eval()
    processor = VideoSaliencyProcessor.from_pretrained(folder)
    policy = ClipPolicy(processor.num_frames, processor.frame_stride)
    values = []
    for place in range(len(rows)):
        clip = load_clip(rows[place], {"peer": policy})
        if clip.density.any():
            logits = model(**processor([clip.frames["peer"]])).logits
            found = processor.post_process(logits, clip.density.shape, kind="density")[0, 0]
            values.append(cc(found, clip.density))
    return float(np.mean(values))


def prior_cc(splits) -> float:
    """Mean CC of the centre prior of the training fixations on the validation frames."""
    prior, rows = ClipRows(splits.train).reference, ClipRows(splits.validation, every=8)
    truths = [rows[place]["source"].truth.density(rows[place]["frame"]) for place in range(len(rows))]
    return float(np.mean([cc(prior.prior_at(truth.shape), truth) for truth in truths if truth.any()]))


CARD = """---
license: apache-2.0
library_name: transformers
tags:
- video-saliency
- synthetic
---

# {name}: a small video saliency model of synthetic gaze

A `VideoSaliencyModel` with {parameters:,} parameters for frames of {height}x{width} pixels, trained from scratch by
`recipes/embedded_saliency/make_peers.py` of hf-mutual-kd. It is a starting point to show mutual knowledge transfer
with. **Its data are synthetic**: scenes, motion and gaze are drawn by a law, nobody watched these videos; it says
nothing about where people look.

- **Trained on** {clips} clips that were made for it, {knows}: {steps:,} steps of {batch} clips, one-cycle AdamW,
  mirroring. No background of the shipped splits is among them, and no sprite.
- **On the validation split** (every 8th frame): CC {cc:.3f}; the centre prior of the training split: {prior:.3f}.
"""


def leave_code(folder: Path) -> None:
    """Take the model's code out of a saved folder: the package brings it, a copy would grow old."""
    for file in folder.glob("*.py"):
        file.unlink()
    for file in folder.glob("*config.json"):
        content = {key: value for key, value in json.loads(file.read_text()).items() if key != "auto_map"}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_peer(name: str, clips: list[MadeClip], folder: Path) -> dict:
    """Train one peer and save it with its processor, yet without its card; gives facts for that."""
    recipe = PEERS[name]
    torch.manual_seed(SEED + list(PEERS).index(name))
    model = VideoSaliencyModel(recipe.build())
    train(model, clips, recipe, name)
    model.save_pretrained(folder)
    VideoSaliencyProcessor.for_model(model.config).save_pretrained(folder)
    leave_code(folder)
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "knows": recipe.knows,
        "steps": recipe.steps,
        "batch": BATCH_SIZE,
        "clips": CLIPS,
        "height": HEIGHT,
        "width": WIDTH,
    }


def main(arguments: list[str] | None = None) -> int:
    """Make the peers that were asked for and print what each reaches on validation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "peers", help="folder of the peers' folders")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="which ones")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    splits = load_videos(RecipeOptions(dataset=str(HERE / "synthetic_gaze")), seed=0)
    prior, rows = prior_cc(splits), ClipRows(splits.validation, every=8)
    clips = make_clips(CLIPS)
    for name in options.peers:
        began = time.perf_counter()
        folder = options.output / name
        with staged(folder) as made:
            facts = make_peer(name, clips, made)
            facts |= {"cc": measure(made, rows), "prior": prior}
            (made / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        seconds = time.perf_counter() - began
        print(
            f"{name:<9} {facts['parameters']:>8,} parameters, {size:4.2f} MB, CC {facts['cc']:.3f} "
            f"(centre prior {prior:.3f}), {seconds:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
