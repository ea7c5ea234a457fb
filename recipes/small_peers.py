"""How the small classifiers of the embedded data are trained, measured and written; `make_peers.py` say which."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_mutual_kd import staged


@dataclass(frozen=True)
class Training:
    """How long and how fast a peer learns.

    Args:
        epochs (`int`): over all its rows.
        batch_size (`int`): rows of a step; those that fill no step are left out.
        weight_decay (`float`): of all weights, unless groups say another.
        peak (`float`): the highest learning rate of the one-cycle schedule.
        seed (`int`): of the order, and of what `loss` draws.
    """

    epochs: int
    batch_size: int
    weight_decay: float
    peak: float
    seed: int


def fit(
    model: PreTrainedModel,
    loss: Callable[[Tensor, torch.Generator], Tensor],
    rows: int,
    training: Training,
    *,
    name: str,
    groups: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Train with AdamW on a one-cycle schedule, in place.

    Args:
        model (`PreTrainedModel`): whose weights move.
        loss (`Callable`): of the rows with these numbers `[B]`; it may draw by the generator.
        rows (`int`): how many there are.
        training ([`Training`]): how long and how fast.
        name (`str`): shown beside the progress bar.
        groups (`list[dict]`, *optional*): the weights, with a decay of their own; all alike when unset.
    """
    generator = torch.Generator().manual_seed(training.seed)
    per_epoch = rows // training.batch_size
    total = training.epochs * per_epoch
    optimizer = torch.optim.AdamW(groups or model.parameters(), lr=training.peak, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=training.peak, total_steps=total)
    model.train()
    with tqdm(total=total, desc=name, unit="step") as progress:
        for _ in range(training.epochs):
            order = torch.randperm(rows, generator=generator)
            for step in range(per_epoch):
                found = loss(order[step * training.batch_size : (step + 1) * training.batch_size], generator)
                optimizer.zero_grad()
                found.backward()
                optimizer.step()
                schedule.step()
                progress.update()
            progress.set_postfix(loss=f"{found.item():.3f}")


def measure(probabilities: Tensor, labels: Tensor, known: list[int]) -> dict[str, float]:
    """Accuracy in percent on all classes, on the known ones and on the others."""
    right = (probabilities.argmax(-1) == labels).double() * 100
    inside = torch.isin(labels, torch.tensor(known))
    return {
        "accuracy": right.mean().item(),
        "known_accuracy": right[inside].mean().item(),
        "other_accuracy": right[~inside].mean().item(),
    }


def write_peers(
    output: Path,
    recipes: Mapping[str, Any],
    card: str,
    *,
    make: Callable[[str, Any, Path], dict],
    predict: Callable[[Path], Tensor],
    validation: Dataset,
) -> None:
    """Make, measure and describe peers, each whole or not at all; print their accuracies and that of their mean.

    Args:
        output (`Path`): folder of their folders.
        recipes (`dict`): how each is made, by name; `knows` has the classes that it sees all rows of.
        card (`str`): template of the README, filled with what `make` says and the accuracies.
        make (`Callable`): trains a peer by its name and recipe and saves it in a folder; returns facts for its card.
        predict (`Callable`): class probabilities `[rows, classes]` of the peer in a folder.
        validation (`Dataset`): the rows that are predicted.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    labels, names = torch.tensor(validation["label"][:]), validation.features["label"].names
    said = []
    for name, recipe in recipes.items():
        with staged(output / name) as made:
            facts = make(name, recipe, made)
            said.append(predict(made))
            facts |= measure(said[-1], labels, [names.index(one) for one in recipe.knows])
            (made / "README.md").write_text(card.format(**facts), encoding="utf-8")
        print("{name:<9} {accuracy:5.1f} % ({known_accuracy:.1f} known, {other_accuracy:.1f} others)".format(**facts))
    together = (torch.stack(said).mean(0).argmax(-1) == labels).double().mean().item()
    anyone = (torch.stack(said).argmax(-1) == labels).any(0).double().mean().item()
    size = sum(file.stat().st_size for file in output.glob("*/model.safetensors"))
    print(f"{'mean':<9} {together:5.1%}; any of them right: {anyone:.1%}")
    print(f"{size / 1e6:.2f} MB of weights in {output}, {time.monotonic() - started:.0f} s")
