"""Train the peers of the suites that need more than the three embedded ones: `python recipes/suites/make_peers.py`.

Nine small classifiers of three families, made as the embedded peers are, from the embedded `pretrain` split alone:
seven ordinary ones, each on 4,000 rows of its own draw; a strong one on all 14,000; a weak one on 1,000.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import logging

RECIPES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(RECIPES))

from embedded import make_peers  # noqa: E402 - beside this folder, which is no package
from embedded.make_peers import PEERS, SEED, measure, predict, preprocess, train  # noqa: E402


@dataclass(frozen=True)
class SuitePeer:
    """A peer: whose family and settings of the embedded peers it has, on how many rows, and which draw."""

    family: str
    rows: int = 4_000
    draw: int = 0


SUITE_PEERS = {
    **{f"{family}_{draw}": SuitePeer(family, draw=draw) for draw in range(2) for family in PEERS},
    "resnet_2": SuitePeer("resnet", draw=2),
    "strong": SuitePeer("resnet", rows=14_000, draw=3),
    "weak": SuitePeer("vit", rows=1_000, draw=4),
}
"""Draws differ, and with them rows, initial weights and order."""


def make_peer(name: str, peer: SuitePeer, data: Dataset, folder: Path) -> None:
    """Train one peer and save it as an ordinary `save_pretrained` folder."""
    recipe, position = PEERS[peer.family], list(SUITE_PEERS).index(name)
    labels = data.features["label"].names
    generator = np.random.Generator(np.random.PCG64([SEED, 100 + position]))
    chosen = data.select(generator.permutation(len(data))[: peer.rows])
    torch.manual_seed(SEED + 100 + position)
    ids = {label: index for index, label in enumerate(labels)}
    model = recipe.build({"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": ids})
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
        folder, unfinished = options.output / name, options.output / f"{name}.part"
        if not folder.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            make_peer(name, peer, pretrain, unfinished)
            os.replace(unfinished, folder)
        print(f"{name:<11} {measure(predict(folder, images), labels, [0])['accuracy']:5.1f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
