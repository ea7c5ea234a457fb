"""The members of `recipes/evidence.py`: small models of four families, their pretraining, and how they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from embedded.make_data import CLASS_NAMES
from evidence_data import FashionMNIST, Rows, shift, skewed, slice_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_mutual_kd import whole

BATCH_SIZE = 128
EVALUATION_BATCH = 1_000
LABELS = {"id2label": dict(enumerate(CLASS_NAMES)), "label2id": {name: i for i, name in enumerate(CLASS_NAMES)}}


class Perceptron(nn.Module):
    """Two hidden layers: 235,146 parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layers(pixel_values)


class ConvNet(nn.Module):
    """Two convolutions: 20,490 parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1568, 10),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.layers(pixel_values)


def build_resnet() -> nn.Module:
    """A Hugging Face ResNet of three basic blocks: 78,394 parameters."""
    config = ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", **LABELS
    )
    return ResNetForImageClassification(config)


def build_tiny_vit() -> nn.Module:
    """A Hugging Face ViT of 16 patches, two layers: 11,674 parameters."""
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **LABELS,
    )
    return ViTForImageClassification(config)


@dataclass(frozen=True)
class MemberRecipe:
    """How a member is pretrained.

    Args:
        build (`Callable`): makes it with random weights.
        epochs (`int`): over its rows.
        learning_rate (`float`): peak of its one-cycle schedule.
        specialist_epochs (`int`, *optional*): over the rows of a specialist, where it is another number.
    """

    build: Callable[[], nn.Module]
    epochs: int
    learning_rate: float
    specialist_epochs: int | None = None


MEMBERS = {
    "mlp": MemberRecipe(Perceptron, epochs=20, learning_rate=2e-3, specialist_epochs=8),
    "cnn": MemberRecipe(ConvNet, epochs=15, learning_rate=4e-3),
    "res": MemberRecipe(build_resnet, epochs=10, learning_rate=5e-3),
    "vitt": MemberRecipe(build_tiny_vit, epochs=12, learning_rate=3e-3),
}
"""Epochs were chosen by the accuracy after pretraining alone: about 87, 88, 89 and 80 %; specialists 82 and 81 %."""


@dataclass(frozen=True)
class Start:
    """Which pretrained weights a peer starts from.

    Args:
        member (`str`): a key of [`MEMBERS`].
        seed (`int`): of rows, initial weights and order.
        specialist (`int`, *optional*): 0 or 1: which five classes it has seen well; unset: all of them.
    """

    member: str
    seed: int
    specialist: int | None = None

    @property
    def name(self) -> str:
        """What its file is called."""
        kind = "all" if self.specialist is None else f"specialist{self.specialist}"
        return f"{self.member}-{kind}-{self.seed}"

    def rows(self, data: FashionMNIST) -> Rows:
        """What it is pretrained on: a third of the rows, or a skewed draw from all of them."""
        if self.specialist is None:
            return slice_of(data.pretrain, self.seed)
        return skewed(data.pretrain, self.seed, self.specialist)


def pretrained(start: Start, data: FashionMNIST, folder: Path, max_steps: int | None = None) -> nn.Module:
    """A member with its pretrained weights, from `folder` where they are, else trained now and kept there."""
    recipe = MEMBERS[start.member]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 * (start.seed + 1) + list(MEMBERS).index(start.member))
        model = recipe.build()
    path = folder / f"{start.name}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return model.eval()
    pretrain(model, start.rows(data), recipe, start, max_steps)
    with whole(path) as beside:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, beside)
    return model.eval()


def pretrain(model: nn.Module, rows: Rows, recipe: MemberRecipe, start: Start, max_steps: int | None) -> None:
    """AdamW on a one-cycle schedule, images shifted by up to one pixel, in place."""
    generator = torch.Generator().manual_seed(start.seed)
    per_epoch = max(len(rows) // BATCH_SIZE, 1)
    epochs = recipe.epochs if start.specialist is None else recipe.specialist_epochs or recipe.epochs
    steps = min(epochs * per_epoch, max_steps or epochs * per_epoch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(steps, 2))
    model.train()
    batches: list[Tensor] = []
    for _ in tqdm(range(steps), desc=f"pretrain {start.name}", unit="step", leave=False):
        batches = batches or list(torch.randperm(len(rows), generator=generator).tensor_split(per_epoch))
        index = batches.pop()
        loss = functional.cross_entropy(logits_of(model, shift(rows.images[index], generator)), rows.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """`[B, C]` of a plain module or a Hugging Face model."""
    outputs = model(pixel_values=images)
    return outputs if isinstance(outputs, Tensor) else outputs.logits


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits `[rows, C]` in evaluation mode; the model is left in it."""
    model.eval()
    return torch.cat([logits_of(model, batch) for batch in images.split(EVALUATION_BATCH)])
