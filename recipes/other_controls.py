"""What else a user could do with few labels and no peers: label smoothing, FixMatch, the form of the authors' code.

`recipes/few_labels.py --controls` trains these beside its settings: same rows, steps, batches, learning rates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Image
from embedded.make_peers import shift_and_flip
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

Process = Callable[[list[Tensor]], Tensor]

THRESHOLD, WEIGHT = 0.95, 1.0
"""FixMatch's own (Sohn et al. 2020, arXiv 2001.07685, table 4): how sure a guess must be, weight of its loss."""
STRONG = v2.Compose([v2.RandAugment(), v2.RandomErasing(p=1.0)])
"""The strong view of FixMatch: RandAugment, then a part cut out."""


@dataclass
class Rows:
    """Images as they are, with labels of which -1 is none.

    Args:
        images (`Tensor`): uint8, `[rows, 3, H, W]`.
        labels (`Tensor`): `[rows]`.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: Any) -> Rows:
        """Decode every row of a `Dataset` of equally large images."""
        pictures = rows.cast_column("image", Image())
        images = torch.stack([v2.functional.pil_to_tensor(image.convert("RGB")) for image in pictures["image"][:]])
        labels = [-1 if label is None else label for label in rows["label"][:]]
        return cls(images, torch.tensor(labels))


def fixmatch_loss(weak: Tensor, strong: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """The loss of rows without a label: what the weak view says where it is sure, asked of the strong view.

    Args:
        weak (`Tensor`): logits `[rows, classes]` of the weak view; no gradient goes there.
        strong (`Tensor`): logits `[rows, classes]` of the strong view.
        threshold (`float`): rows whose highest probability is below it count as zero.

    Returns:
        `Tensor`: a scalar, the mean over all rows (eq. 4 of the paper).
    """
    sure, guess = weak.detach().softmax(-1).max(-1)
    each = functional.cross_entropy(strong, guess, reduction="none")
    return torch.where(sure >= threshold, each, 0.0).mean()


@dataclass(frozen=True)
class Schedule:
    """How long and in which order.

    Args:
        steps (`int`): optimizer steps.
        batch (`int`): rows in a step.
        seed (`int`): of order and views.
    """

    steps: int
    batch: int
    seed: int


def train_fixmatch(model: nn.Module, process: Process, rows: Rows, *, rate: float, schedule: Schedule) -> None:
    """Train a classifier in place by FixMatch, with AdamW on a cosine.

    A quarter of each batch has labels, as in the stages that this is compared with; rows come in shuffled rounds.

    Args:
        model (`nn.Module`): an image classifier of transformers.
        process (`Callable`): its processor, from uint8 images `[3, H, W]` to `pixel_values`.
        rows ([`Rows`]): of which some have a label.
        rate (`float`): the highest learning rate.
        schedule ([`Schedule`]): steps, batches and seed.
    """
    torch.manual_seed(schedule.seed)
    generator = torch.Generator().manual_seed(schedule.seed)
    steps, batch = schedule.steps, schedule.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    known, unknown = (torch.nonzero(mask).flatten() for mask in (rows.labels >= 0, rows.labels < 0))
    few, many = _rounds(known, batch // 4, generator), _rounds(unknown, batch - batch // 4, generator)
    model.train()
    for _ in range(steps):
        labelled, others = next(few), next(many)
        weak = shift_and_flip(rows.images[torch.cat([labelled, others])], generator)
        strong = torch.stack([STRONG(one) for one in rows.images[others]])
        logits = model(pixel_values=process(list(torch.cat([weak, strong])))).logits
        taught, sure, asked = logits.split([len(labelled), len(others), len(others)])
        loss = functional.cross_entropy(taught, rows.labels[labelled]) + WEIGHT * fixmatch_loss(sure, asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _rounds(places: Tensor, size: int, generator: torch.Generator) -> Any:
    """So many places at a time, for ever: all of them once before any comes again."""
    waiting = places[:0]
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, places[torch.randperm(len(places), generator=generator)]])
        yield waiting[:size]
        waiting = waiting[size:]


@torch.no_grad()
def accuracy(model: nn.Module, process: Process, rows: Rows) -> float:
    """Share of right answers, 0 to 1."""
    model.eval()
    right = [
        (model(pixel_values=process(list(images))).logits.argmax(-1) == labels).sum().item()
        for images, labels in zip(rows.images.split(500), rows.labels.split(500), strict=True)
    ]
    return sum(right) / len(rows.labels)


def tuned_fixmatch(
    model: nn.Module, process: Process, parts: Sequence[Rows], *, rates: Sequence[float], schedule: Schedule
) -> float:
    """Train a copy at every rate on the first part, and measure the one that the second favours on the third."""
    train, validation, test = parts
    found = []
    for rate in rates:
        tried = copy.deepcopy(model)
        train_fixmatch(tried, process, train, rate=rate, schedule=schedule)
        found.append((accuracy(tried, process, validation), tried))
    return accuracy(max(found, key=lambda one: one[0])[1], process, test)
