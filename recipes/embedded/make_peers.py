"""Train the embedded peers, three small specialists of different families: `python recipes/embedded/make_peers.py`.

They learn from the `pretrain` split alone. With the same libraries, machine and number of threads, retraining gives
the same weights up to float noise.
"""

from __future__ import annotations

import argparse
import os
import sys
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
from datasets import Dataset
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    logging,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from small_peers import Training, fit, write_peers  # noqa: E402 - beside this folder, which is no package

SEED = 20251022
EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 20, 64, 0.05

IMAGE_SIZE = 28
DATA_MEAN, DATA_STD = 0.286, 0.353
"""Mean and standard deviation of Fashion-MNIST's training pixels, with pixels in 0 to 1."""


@dataclass(frozen=True)
class PeerRecipe:
    """How one peer is made.

    Args:
        knows (`tuple[str, ...]`): classes whose rows it sees all of.
        one_in (`int`): of the other classes it sees one row in so many.
        build (`Callable`): label names, by id and by name, to a model with random weights.
        processor (`BaseImageProcessor`): what turns PIL images into its `pixel_values`.
        learning_rate (`float`): peak of its one-cycle schedule.
    """

    knows: tuple[str, ...]
    one_in: int
    build: Callable[[dict], PreTrainedModel]
    processor: BaseImageProcessor
    learning_rate: float


def build_vit(labels: dict) -> PreTrainedModel:
    """A ViT of 16 patches of 7x7 pixels."""
    config = ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=7,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        **labels,
    )
    return ViTForImageClassification(config)


def build_resnet(labels: dict) -> PreTrainedModel:
    """A ResNet of three basic blocks."""
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", **labels)
    return ResNetForImageClassification(config)


def build_convnext(labels: dict) -> PreTrainedModel:
    """A ConvNeXt of two stages; its layer scale starts at 0.1 because 1e-6 is made for far longer training."""
    config = ConvNextConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        num_stages=2,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        layer_scale_init_value=0.1,
        **labels,
    )
    return ConvNextForImageClassification(config)


def convnext_processor(mean: float, std: float) -> BaseImageProcessor:
    """The processor of ResNets and ConvNeXts, without its default of enlarging the image and cropping the middle."""
    return ConvNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_pct=1.0,
        image_mean=[mean] * 3,
        image_std=[std] * 3,
        do_convert_rgb=True,
    )


# Classes that look alike (shirts, coats, pullovers; the shoes) have different specialists, so that each peer has much
# to learn from the others. The ResNet learns most from few rows; it gets fewer, so as not to be the best throughout.
PEERS = {
    "vit": PeerRecipe(
        knows=("T-shirt/top", "Coat", "Sandal", "Bag"),
        one_in=9,
        build=build_vit,
        processor=ViTImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_convert_rgb=True,
        ),
        learning_rate=2e-3,
    ),
    "resnet": PeerRecipe(
        knows=("Pullover", "Dress", "Sneaker"),
        one_in=18,
        build=build_resnet,
        processor=convnext_processor(DATA_MEAN, DATA_STD),
        learning_rate=5e-3,
    ),
    "convnext": PeerRecipe(
        knows=("Trouser", "Shirt", "Ankle boot"),
        one_in=9,
        build=build_convnext,
        processor=convnext_processor(0.5, 0.5),
        learning_rate=3e-3,
    ),
}


def choose_rows(labels: np.ndarray, known: list[int], one_in: int, generator: np.random.Generator) -> np.ndarray:
    """All rows of the known classes and some of the others, in random order.

    Args:
        labels (`np.ndarray`): class ids `[rows]`.
        known (`list[int]`): class ids.
        one_in (`int`): of the other classes, one row in so many is kept.
        generator (`np.random.Generator`): decides which rows of the other classes are kept.

    Returns:
        `np.ndarray`: row numbers.
    """
    order = generator.permutation(len(labels))
    known_here = np.isin(labels[order], known)
    seen_of_others = np.cumsum(~known_here)
    return order[known_here | (seen_of_others % one_in == 0)]


def shift_and_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to one pixel in each direction and mirror every second one, at random.

    Args:
        images (`torch.Tensor`): `[B, C, H, W]`; what moves in from outside repeats the border.
        generator (`torch.Generator`): draws the moves.

    Returns:
        `torch.Tensor`: `[B, C, H, W]`.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    down, right = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def train(model: PreTrainedModel, pixels: torch.Tensor, labels: torch.Tensor, peak: float, name: str) -> None:
    """Train with AdamW on a one-cycle schedule, in place.

    Args:
        model (`PreTrainedModel`): an image classifier.
        pixels (`torch.Tensor`): `[rows, 3, H, W]`, as its processor gives them.
        labels (`torch.Tensor`): class ids `[rows]`.
        peak (`float`): the schedule's highest learning rate.
        name (`str`): shown beside the progress bar.
    """

    def loss(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        logits = model(pixel_values=shift_and_flip(pixels[rows], generator)).logits
        return functional.cross_entropy(logits, labels[rows])

    fit(model, loss, len(labels), Training(EPOCHS, BATCH_SIZE, WEIGHT_DECAY, peak, SEED), name=name)


def preprocess(processor: BaseImageProcessor, images: list) -> torch.Tensor:
    """PIL images to `pixel_values` `[rows, 3, H, W]`."""
    parts = [
        processor(images[start : start + 1_000], return_tensors="pt")["pixel_values"]
        for start in range(0, len(images), 1_000)
    ]
    return torch.cat(parts)


@torch.no_grad()
def predict(folder: Path, images: list) -> torch.Tensor:
    """Class probabilities `[rows, classes]` of a saved peer, loaded as a user would load it."""
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = preprocess(AutoImageProcessor.from_pretrained(folder), images)
    return torch.cat([model(pixel_values=batch).logits.softmax(-1) for batch in pixels.split(500)])


CARD = """---
license: mit
library_name: transformers
pipeline_tag: image-classification
datasets:
- zalando-datasets/fashion_mnist
metrics:
- accuracy
tags:
- fashion-mnist
---

# {name}: a small specialist on Fashion-MNIST

A {family} with {parameters:,} parameters for 28x28 images, trained from scratch by `recipes/embedded/make_peers.py`
of hf-mutual-kd. It is a starting point to show mutual knowledge transfer with, not a good classifier.

- **Trained on** {rows:,} images of the `pretrain` split of hf-mutual-kd's Fashion-MNIST subset: all {known_rows:,}
  of the classes {known}, and one in {one_in} of the others. {epochs} epochs, one-cycle AdamW, shifts by
  one pixel and mirroring.
- **Accuracy** on the 2,000 images of the `validation` split: {accuracy:.1f} % ({known_accuracy:.1f} % on the classes
  that it saw all of, {other_accuracy:.1f} % on the others).
- **Data**: Fashion-MNIST, Copyright 2017 Zalando SE, MIT licence.
"""


def make_peer(name: str, recipe: PeerRecipe, data: Dataset, folder: Path) -> dict:
    """Train one peer and save it as an ordinary `save_pretrained` folder, yet without its card.

    Args:
        name (`str`): its name.
        recipe (`PeerRecipe`): how it is made.
        data (`Dataset`): the `pretrain` split.
        folder (`Path`): where it is saved.

    Returns:
        `dict`: facts for its card.
    """
    names = data.features["label"].names
    labels = np.array(data["label"])
    known = [names.index(one) for one in recipe.knows]
    position = list(PEERS).index(name)
    rows = choose_rows(labels, known, recipe.one_in, np.random.Generator(np.random.PCG64([SEED, position])))
    chosen = data.select(rows)
    torch.manual_seed(SEED + position)
    model = recipe.build(
        {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    )
    pixels = preprocess(recipe.processor, chosen["image"][:])
    train(model, pixels, torch.tensor(labels[rows]), recipe.learning_rate, name)
    model.save_pretrained(folder)
    recipe.processor.save_pretrained(folder)
    return {
        "name": name,
        "family": type(model).__name__.removesuffix("ForImageClassification"),
        "parameters": model.num_parameters(),
        "rows": len(rows),
        "known": ", ".join(recipe.knows),
        "known_rows": int(np.isin(labels[rows], known).sum()),
        "one_in": recipe.one_in,
        "epochs": EPOCHS,
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and describe all peers; print their accuracies and that of their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "fashion_mnist", help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "peers", help="folder of the peers' folders")
    options = parser.parse_args(arguments)
    for split in ("pretrain", "validation"):
        if not (options.data / f"{split}.parquet").is_file():
            parser.error(f"{options.data} holds no {split}.parquet; run make_data.py first")
    logging.disable_progress_bar()
    pretrain = Dataset.from_parquet(str(options.data / "pretrain.parquet"))
    validation = Dataset.from_parquet(str(options.data / "validation.parquet"))
    images = validation["image"][:]
    write_peers(
        options.output,
        PEERS,
        CARD,
        make=lambda name, recipe, folder: make_peer(name, recipe, pretrain, folder),
        predict=lambda folder: predict(folder, images),
        validation=validation,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
