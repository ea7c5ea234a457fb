"""Train the peers of the suites: `python recipes/suites/make_peers.py`.

Twelve classifiers of three families, a fifth of the size of the embedded ones and so about three times as fast, made
as those are, from the embedded `pretrain` split alone: seven ordinary ones, each on 4,000 rows of its own draw; three
specialists, each on all rows of some classes and few of the others; a strong one on all 14,000; a weak one on 1,000.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    logging,
)

from hf_mutual_kd import staged

RECIPES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(RECIPES))

from embedded import make_peers  # noqa: E402 - beside this folder, which is no package
from embedded.make_peers import (  # noqa: E402
    IMAGE_SIZE,
    PEERS,
    SEED,
    choose_rows,
    predict,
    preprocess,
    train,
)
from small_peers import measure  # noqa: E402


def build_vit(labels: dict) -> PreTrainedModel:
    """A ViT of 16 patches, two layers: 22,794 parameters."""
    config = ViTConfig(
        image_size=IMAGE_SIZE,
        patch_size=7,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        **labels,
    )
    return ViTForImageClassification(config)


def build_resnet(labels: dict) -> PreTrainedModel:
    """A ResNet of two basic blocks: 19,730 parameters."""
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        downsample_in_first_stage=True,
        **labels,
    )
    return ResNetForImageClassification(config)


def build_convnext(labels: dict) -> PreTrainedModel:
    """A ConvNeXt of two stages, one block each: 16,346 parameters."""
    config = ConvNextConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        num_stages=2,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_scale_init_value=0.1,
        **labels,
    )
    return ConvNextForImageClassification(config)


BUILDERS = {"vit": build_vit, "resnet": build_resnet, "convnext": build_convnext}


@dataclass(frozen=True)
class SuitePeer:
    """A peer: its family, on how many rows it is trained, and which draw.

    A specialist sees the classes that the embedded peer of its family knows, and as few of the others.
    """

    family: str
    rows: int = 4_000
    draw: int = 0
    is_specialist: bool = False


SUITE_PEERS = {
    **{f"{family}_{draw}": SuitePeer(family, draw=draw) for draw in range(2) for family in BUILDERS},
    "resnet_2": SuitePeer("resnet", draw=2),
    "strong": SuitePeer("resnet", rows=14_000, draw=3),
    "weak": SuitePeer("vit", rows=1_000, draw=4),
    **{f"special_{family}": SuitePeer(family, rows=14_000, draw=5, is_specialist=True) for family in BUILDERS},
}
"""Draws differ, and with them rows, initial weights and order."""


def make_peer(name: str, peer: SuitePeer, data: Dataset, folder: Path) -> None:
    """Train one peer and save it as an ordinary `save_pretrained` folder."""
    recipe, position = PEERS[peer.family], list(SUITE_PEERS).index(name)
    labels = data.features["label"].names
    generator = np.random.Generator(np.random.PCG64([SEED, 100 + position]))
    if peer.is_specialist:
        known = [labels.index(one) for one in recipe.knows]
        chosen = data.select(choose_rows(np.array(data["label"]), known, recipe.one_in, generator))
    else:
        chosen = data.select(generator.permutation(len(data))[: peer.rows])
    torch.manual_seed(SEED + 100 + position)
    ids = {label: index for index, label in enumerate(labels)}
    model = BUILDERS[peer.family]({"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": ids})
    pixels = preprocess(recipe.processor, chosen["image"][:])
    train(model, pixels, torch.tensor(chosen["label"][:]), recipe.learning_rate, name)
    model.save_pretrained(folder)
    recipe.processor.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Train and save the peers that are not there yet; print the accuracy of each on validation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=RECIPES / "embedded" / "fashion_mnist")
    parser.add_argument("--output", type=Path, default=Path("runs/suite_peers"), help="folder of the peers' folders")
    parser.add_argument("--epochs", type=int, default=make_peers.EPOCHS, help="fewer to try it out")
    options = parser.parse_args(arguments)
    make_peers.EPOCHS = options.epochs
    logging.disable_progress_bar()
    pretrain = Dataset.from_parquet(str(options.data / "pretrain.parquet"))
    validation = Dataset.from_parquet(str(options.data / "validation.parquet"))
    images, labels = validation["image"][:], torch.tensor(validation["label"][:])
    for name, peer in SUITE_PEERS.items():
        folder = options.output / name
        if not folder.is_dir():
            with staged(folder) as made:
                make_peer(name, peer, pretrain, made)
        print(f"{name:<17} {measure(predict(folder, images), labels, [0])['accuracy']:5.1f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
