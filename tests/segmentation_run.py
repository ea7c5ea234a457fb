"""Trains a per-pixel and a query-based peer, alone or in one of several processes: `segmentation_run.py OUT BATCH`."""

import sys

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from segmentation_peers import CLASSES, SIZE, tiny_segmenter
from task_run import SETTINGS, config_of, run_still
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import Cohort, LoadedPeer, MutualKDTrainer, PeerSpec

PEERS = ("segformer", "mask2former")
SQUARE = {"height": SIZE, "width": SIZE}


def segmentation_rows(count: int, seed: int = 0) -> Dataset:
    """Images of blocks whose colours tell their classes; every fifth has no mask."""
    generator = np.random.default_rng(seed)
    images, masks = [], []
    for index in range(count):
        height, width = 8 * generator.integers(5, 9, size=2)
        classes = generator.integers(0, len(CLASSES), size=(4, 4)).repeat(height // 4, 0).repeat(width // 4, 1)
        pixels = 50 * classes[..., None] + generator.integers(0, 40, size=(*classes.shape, 3))
        images.append(PILImage.fromarray(pixels.astype(np.uint8)))
        masks.append(None if index % 5 == 4 and seed == 0 else PILImage.fromarray(classes.astype(np.uint8)))
    features = Features({"image": Image(), "label": Image()})
    rows = Dataset.from_dict({"image": images, "label": masks}, features)
    return rows.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))


def segmentation_cohort(names=PEERS) -> Cohort:
    processors = {
        "segformer": SegformerImageProcessor(size=SQUARE),
        "mask2former": Mask2FormerImageProcessor(size=SQUARE, ignore_index=255),
    }
    peers = {name: LoadedPeer(tiny_segmenter(name), processors[name], PeerSpec(name)) for name in names}
    return Cohort(peers, task="semantic-segmentation", label_names=CLASSES)


def segmentation_trainer(out: str, **changes) -> MutualKDTrainer:
    cohort = segmentation_cohort()
    args = config_of(cohort, out, **SETTINGS | {"crop_size": SIZE} | changes)
    train, validation = segmentation_rows(8), segmentation_rows(5, 1)
    return MutualKDTrainer(cohort, args, train_dataset=train, eval_dataset=validation)


def main(out: str, batch: str) -> None:
    torch.set_num_threads(1)
    # Nothing that depends on an image's batch: no update, no batch statistics, no dropout.
    trainer = segmentation_trainer(out, per_device_train_batch_size=int(batch), learning_rate=0.0, batch_norm="freeze")
    run_still(trainer, out, segmentation_rows(5, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
