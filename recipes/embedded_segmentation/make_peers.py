"""Train the embedded segmenters, three of different heads: `python recipes/embedded_segmentation/make_peers.py`.

They learn from the `pretrain` split alone. With the same libraries, machine and number of threads, retraining gives
the same weights up to float noise.
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
from typing import Any

# Without binding, two torch threads are slow at random; the runtime reads this when torch is imported.
if __name__ == "__main__":
    os.environ.setdefault("OMP_PROC_BIND", "true")
    os.environ.setdefault("OMP_PLACES", "cores")
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    BaseImageProcessor,
    ConvNextConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    logging,
)

from hf_mutual_kd import SegmentationScores, dense_log_probs, staged

HERE = Path(__file__).resolve().parent
SEED = 20251022
BATCH_SIZE, WEIGHT_DECAY, CLIP = 8, 0.05, 5.0

IMAGE_SIZE = 64
SIDE_BORDER = 20.0
"""Degrees east between the west and the east."""

IGNORED = 255
PIXEL_WEIGHT = 5.0
"""Of the per-pixel cross-entropy that a head with queries learns from beside its own loss, because matching alone is
slow from random weights."""

STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclass(frozen=True)
class PeerRecipe:
    """How one peer is made.

    Args:
        knows (`str`): what it learns from, in words.
        rows (`Callable`): longitudes `[rows]` in degrees to which rows these are, `bool` `[rows]`.
        build (`Callable`): label names, by id and by name, to a model with random weights.
        processor (`BaseImageProcessor`): what turns PIL images into its `pixel_values`.
        learning_rate (`float`): peak of its one-cycle schedule.
        steps (`int`): of `BATCH_SIZE` tiles.
    """

    knows: str
    rows: Callable[[np.ndarray], np.ndarray]
    build: Callable[[dict], PreTrainedModel]
    processor: BaseImageProcessor
    learning_rate: float
    steps: int


def build_segformer(labels: dict) -> PreTrainedModel:
    """A SegFormer of four stages; its logits have a quarter of the image's sides."""
    config = SegformerConfig(
        hidden_sizes=[16, 32, 64, 96],
        depths=[1, 1, 2, 1],
        num_attention_heads=[1, 2, 4, 4],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        **labels,
    )
    return SegformerForSemanticSegmentation(config)


def build_mask2former(labels: dict) -> PreTrainedModel:
    """A Mask2Former with 20 queries on a Swin of five blocks; its mask logits have a quarter of the image's sides."""
    backbone = SwinConfig(
        image_size=IMAGE_SIZE,
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 4],
        window_size=4,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        out_features=STAGES,
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_layers=1,
        encoder_feedforward_dim=96,
        decoder_layers=2,
        dim_feedforward=96,
        num_attention_heads=4,
        num_queries=20,
        train_num_points=1024,
        **labels,
    )
    return Mask2FormerForUniversalSegmentation(config)


def build_upernet(labels: dict) -> PreTrainedModel:
    """A UperNet on a ConvNeXt of five blocks; layer scale starts at 0.1 because 1e-6 is made for longer training."""
    backbone = ConvNextConfig(
        hidden_sizes=[24, 48, 64, 96],
        depths=[1, 1, 2, 1],
        patch_size=2,
        layer_scale_init_value=0.1,
        out_features=STAGES,
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=32, pool_scales=[1, 2], use_auxiliary_head=False, **labels
    )
    return UperNetForSemanticSegmentation(config)


def pixel_processor() -> BaseImageProcessor:
    """The processor of SegFormers, which UperNets use too; labels stay as they are."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return SegformerImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_reduce_labels=False)


PEERS = {
    "segformer": PeerRecipe(
        knows=f"those west of {SIDE_BORDER:.0f} degrees east",
        rows=lambda longitudes: longitudes < SIDE_BORDER,
        build=build_segformer,
        processor=pixel_processor(),
        learning_rate=2e-3,
        steps=1500,
    ),
    "mask2former": PeerRecipe(
        knows=f"those from {SIDE_BORDER:.0f} degrees east on",
        rows=lambda longitudes: longitudes >= SIDE_BORDER,
        build=build_mask2former,
        processor=Mask2FormerImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            ignore_index=IGNORED,
            do_reduce_labels=False,
            num_labels=17,
        ),
        learning_rate=1e-3,
        steps=1500,
    ),
    "upernet": PeerRecipe(
        knows="every second one of the whole world",
        rows=lambda longitudes: np.arange(len(longitudes)) % 2 == 0,
        build=build_upernet,
        processor=pixel_processor(),
        learning_rate=2e-3,
        steps=1000,
    ),
}


def has_queries(model: PreTrainedModel) -> bool:
    return isinstance(model, Mask2FormerForUniversalSegmentation)


def own_loss(model: PreTrainedModel, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The head's own loss; with queries, the per-pixel cross-entropy beside it.

    Args:
        model (`PreTrainedModel`): one of those above.
        pixels (`torch.Tensor`): `[B, 3, H, W]`.
        labels (`torch.Tensor`): class ids `[B, H, W]`, 255 where there is none.

    Returns:
        `torch.Tensor`: a scalar.
    """
    if not has_queries(model):
        return model(pixel_values=pixels, labels=labels).loss
    classes = [torch.unique(one[one != IGNORED]) for one in labels]
    masks = [(one == present[:, None, None]).float() for one, present in zip(labels, classes, strict=True)]
    outputs = model(pixel_values=pixels, class_labels=classes, mask_labels=masks)
    per_pixel = functional.nll_loss(dense_log_probs(outputs, labels.shape[1:]), labels, ignore_index=IGNORED)
    return outputs.loss + PIXEL_WEIGHT * per_pixel


def train(model: PreTrainedModel, pixels: torch.Tensor, labels: torch.Tensor, recipe: PeerRecipe, name: str) -> None:
    """Train with AdamW on a one-cycle schedule, in place; batches are mirrored in either direction at random.

    Args:
        model (`PreTrainedModel`): one of those above.
        pixels (`torch.Tensor`): `[rows, 3, H, W]`, as its processor gives them.
        labels (`torch.Tensor`): class ids `[rows, H, W]`.
        recipe ([`PeerRecipe`]): how long, and how fast.
        name (`str`): shown beside the progress bar.
    """
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps)
    order = torch.empty(0, dtype=torch.long)
    model.train()
    with tqdm(total=recipe.steps, desc=name, unit="step") as progress:
        for step in range(recipe.steps):
            if len(order) < BATCH_SIZE:
                order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
            rows, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
            axes = [axis for axis in (-1, -2) if torch.rand((), generator=generator) < 0.5]
            loss = own_loss(model, pixels[rows].flip(axes), labels[rows].flip(axes))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            progress.update()
            if step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}")


def read(data: Dataset) -> tuple[list, torch.Tensor, np.ndarray]:
    """Images (PIL), class ids `[rows, H, W]` and longitudes `[rows]` of a split."""
    labels = torch.from_numpy(np.stack([np.asarray(one) for one in data["label"]])).long()
    return data["image"][:], labels, np.array(data["lon"])


@torch.no_grad()
def predict(folder: Path, images: list) -> torch.Tensor:
    """Log-probabilities `[rows, classes, H, W]` of a saved peer, loaded as a user would load it."""
    queries = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "mask2former"
    auto = AutoModelForUniversalSegmentation if queries else AutoModelForSemanticSegmentation
    model = auto.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
    parts = [dense_log_probs(model(pixel_values=part), (IMAGE_SIZE, IMAGE_SIZE)) for part in pixels.split(50)]
    return torch.cat(parts)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-segmentation
metrics:
- mean_iou
tags:
- land-cover
---

# {name}: a small segmenter of land cover

A {family} with {parameters:,} parameters for tiles of 64x64 pixels, trained from scratch by
`recipes/embedded_segmentation/make_peers.py` of hf-mutual-kd. It is a starting point to show mutual knowledge transfer
with, not a good map.

- **Trained on** {rows:,} tiles of the `pretrain` split of hf-mutual-kd's land-cover tiles, {knows}: {steps:,} steps
  of {batch} tiles, one-cycle AdamW, mirroring.
- **On the {validation} tiles of the `validation` split**: {pACC:.1f} % of the pixels right ({west:.1f} % in the west,
  {east:.1f} % in the east), mIoU {mIoU:.1f} %; the most frequent class alone: {majority:.1f} % of the pixels.
- **Data**: NASA Blue Marble images, MODIS land cover MCD12C1 (2019) as labels.
"""


def make_peer(name: str, data: tuple[list, torch.Tensor, np.ndarray], names: list[str], folder: Path) -> dict:
    """Train one peer and save it as an ordinary `save_pretrained` folder, yet without its card.

    Args:
        name (`str`): its name in `PEERS`.
        data (`tuple`): what [`read`] gave of `pretrain`.
        names (`list[str]`): of the classes.
        folder (`Path`): where it is saved.

    Returns:
        `dict`: facts for its card.
    """
    recipe = PEERS[name]
    images, labels, longitudes = data
    rows = np.flatnonzero(recipe.rows(longitudes))
    torch.manual_seed(SEED + list(PEERS).index(name))
    model = recipe.build(
        {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    pixels = recipe.processor([images[row] for row in rows], return_tensors="pt")["pixel_values"]
    train(model, pixels, labels[rows], recipe, name)
    model.save_pretrained(folder)
    recipe.processor.save_pretrained(folder)
    return {
        "name": name,
        "family": type(model).__name__.rsplit("For", 1)[0],
        "parameters": model.num_parameters(),
        "rows": len(rows),
        "knows": recipe.knows,
        "steps": recipe.steps,
        "batch": BATCH_SIZE,
    }


def measure(log_probs: torch.Tensor, labels: torch.Tensor, longitudes: np.ndarray) -> dict[str, Any]:
    """Scores in percent over all tiles, and the share of right pixels in the west and in the east."""
    found = log_probs.argmax(1)
    scores = SegmentationScores(log_probs.shape[1]).compute(predictions=found, references=labels)
    right = (found == labels).double() * 100
    west = torch.from_numpy(longitudes < SIDE_BORDER)
    return {
        **{key: scores[key] * 100 for key in ("mIoU", "fwIoU", "mACC", "pACC")},
        "west": right[west].mean().item(),
        "east": right[~west].mean().item(),
        "majority": labels.flatten().bincount().max().item() / labels.numel() * 100,
        "validation": len(labels),
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and describe all peers; print their scores and that of their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "land_cover", help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "peers", help="folder of the peers' folders")
    options = parser.parse_args(arguments)
    for split in ("pretrain", "validation"):
        if not (options.data / f"{split}.parquet").is_file():
            parser.error(f"{options.data} holds no {split}.parquet; run make_data.py first")
    logging.disable_progress_bar()
    started = time.monotonic()

    names = json.loads((options.data / "names.json").read_text(encoding="utf-8"))
    pretrain, validation = (
        read(Dataset.from_parquet(str(options.data / f"{split}.parquet"))) for split in ("pretrain", "validation")
    )
    images, labels, longitudes = validation
    options.output.mkdir(parents=True, exist_ok=True)
    answers = []
    for name in PEERS:
        with staged(options.output / name) as made:
            facts = make_peer(name, pretrain, names, made)
            answers.append(predict(made, images))
            facts |= measure(answers[-1], labels, longitudes)
            (made / "README.md").write_text(CARD.format(**facts), encoding="utf-8")
        print("{name:<11} pACC {pACC:.1f} % (west {west:.1f}, east {east:.1f}), mIoU {mIoU:.1f} %".format(**facts))

    together = measure(torch.stack(answers).logsumexp(0), labels, longitudes)
    anyone = (torch.stack(answers).argmax(2) == labels).any(0).double().mean().item()
    size = sum(file.stat().st_size for file in options.output.glob("*/model.safetensors"))
    print("{:<11} pACC {pACC:.1f} %, mIoU {mIoU:.1f} %".format("mean", **together) + f"; any right: {anyone:.1%}")
    print(f"{size / 1e6:.2f} MB of weights in {options.output}, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
