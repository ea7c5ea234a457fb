"""Tiny peers and rows that every test may use; nothing is fetched."""

import os

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_mutual_kd import LoadedPeer, PeerSpec

pytest_plugins = ["hub_run", "recipe_run", "edge_cases"]


def pytest_collection_finish():
    """What torch and transformers brought stays; looking through it takes half a second of each `gc.collect`."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


LABELS = ["circle", "square", "stripe"]
SIZE = 16


def tiny_vit(dropout: float = 0.0, **changes) -> ViTForImageClassification:
    config = ViTConfig(
        image_size=SIZE,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=dropout,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        **changes,
    )
    return ViTForImageClassification(config)


def tiny_resnet() -> ResNetForImageClassification:
    config = ResNetConfig(
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    return ResNetForImageClassification(config)


def tiny_convnext() -> ConvNextForImageClassification:
    config = ConvNextConfig(
        patch_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        num_stages=2,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    return ConvNextForImageClassification(config)


MAKERS = {"vit": tiny_vit, "cnn": tiny_resnet, "cnx": tiny_convnext}


def tiny_processor(mean: float = 0.5) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[mean] * 3, image_std=[0.5] * 3)


@pytest.fixture(scope="session")
def _models():
    with torch.random.fork_rng():
        models = {}
        for index, (name, make) in enumerate(MAKERS.items()):
            torch.manual_seed(index)
            models[name] = make().eval()
        return models


@pytest.fixture
def make_peers(_models):
    """`make_peers("vit", "cnx")`: fresh copies of the same tiny peers, with processors."""

    def make(*names: str) -> dict[str, LoadedPeer]:
        return {
            name: LoadedPeer(copy.deepcopy(_models[name.split("_")[0]]), tiny_processor(), PeerSpec(source=name))
            for name in names
        }

    return make


@pytest.fixture
def make_cohort(make_peers):
    """`make_cohort("vit", "cnx")`: a cohort of fresh tiny peers."""
    from hf_mutual_kd import Cohort

    def make(*names: str, **kwargs):
        return Cohort(make_peers(*names), label_names=LABELS, **kwargs)

    return make


def draw(label: int, generator: np.random.Generator) -> PILImage.Image:
    """A noisy circle, square or stripe."""
    y, x = np.mgrid[:SIZE, :SIZE] - generator.integers(5, 11, size=2)[:, None, None]
    shape = [x**2 + y**2 < 16, np.maximum(abs(x), abs(y)) < 4, abs(x + y) < 3][label]
    pixels = shape[..., None] * generator.integers(120, 255, size=3) + generator.integers(0, 60, size=(SIZE, SIZE, 3))
    return PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_rows(count: int, seed: int = 0) -> Dataset:
    """`count` labelled images in turn of each class."""
    generator = np.random.default_rng(seed)
    labels = [index % len(LABELS) for index in range(count)]
    features = Features({"image": Image(), "label": ClassLabel(names=LABELS)})
    rows = Dataset.from_dict({"image": [draw(label, generator) for label in labels], "label": labels}, features)
    return rows.cast_column("image", Image(decode=False))


@pytest.fixture(scope="session")
def train_rows() -> Dataset:
    return make_rows(48, seed=0)


@pytest.fixture(scope="session")
def eval_rows() -> Dataset:
    return make_rows(21, seed=1)


def write_place(folder: Path, train: int, validation: int, test: int) -> Path:
    """Save every tiny peer, and a data set of so many rows, into a folder."""
    for index, (name, make) in enumerate(MAKERS.items()):
        torch.manual_seed(index)
        make().save_pretrained(folder / name)
        tiny_processor().save_pretrained(folder / name)
    splits = {"train": make_rows(train), "validation": make_rows(validation, 1), "test": make_rows(test, 2)}
    DatasetDict(splits).save_to_disk(folder / "data")
    return folder


def children_cpu_s() -> float:
    """Seconds of processors that ended child processes took, which a loaded machine does not change."""
    spent = os.times()
    return spent.children_user + spent.children_system


def in_two_processes(words) -> str:
    """What a command of the package's prints as two processes on the CPU."""
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "hf_mutual_kd",
    ]
    done = subprocess.run(
        [sys.executable, *launch, *map(str, words)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
