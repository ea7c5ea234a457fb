"""Loads the peers of `data/facts.json` when they are asked for, and says what each makes of an image."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

MOST_BYTES = 3_000_000_000
"""Of weights in memory; beyond, the models that were not asked for longest leave."""
GUESSES = 3
IGNORE = 255
PHASES = ("start", "end")


@dataclass
class Seen:
    """What one peer makes of an image, at one time.

    Args:
        confidence (`float`): probability of its own best class, of a map the mean over the pixels.
        score (`float`, *optional*): how well it knows the truth, where that is known: the margin in nats, of a map
            minus the mean cross-entropy of its pixels. The best score teaches.
        right (`float`, *optional*): 0 or 1, of a map the share of pixels.
        guesses (`list`): label and probability of the best classes.
        classes (`[H, W]` int64, *optional*): the map.
    """

    confidence: float
    score: float | None = None
    right: float | None = None
    guesses: list[tuple[str, float]] = field(default_factory=list)
    classes: torch.Tensor | None = None


class Models:
    """Loads peers when they are asked for and keeps those that were asked for last, within [`MOST_BYTES`].

    Args:
        folder (`Path`): of the app; models that lie in it are named relative to it.
        auto_models: classes of transformers, the first that knows a model's configuration loads it.
        most_bytes (`int`): of float32 weights that are held.
    """

    def __init__(self, folder: Path, auto_models: Sequence[Any], most_bytes: int = MOST_BYTES):
        self.folder, self.auto_models, self.most_bytes = folder, auto_models, most_bytes
        self.held: OrderedDict[str, Any] = OrderedDict()
        self.processors: dict[str, Any] = {}

    def get(self, place: dict[str, Any]) -> Any:
        """The model at a place, `{"folder": …}` or `{"repo": …, "revision": …}`, with its `parameters`."""
        key = json.dumps(place, sort_keys=True)
        if key not in self.held:
            room = self.most_bytes - 4 * place["parameters"]
            while self.held and sum(4 * json.loads(one)["parameters"] for one in self.held) > room:
                self.held.popitem(last=False)
            source, revision = self._source(place)
            config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            auto = next((cls for cls in self.auto_models if type(config) in cls._model_mapping), self.auto_models[0])
            self.held[key] = auto.from_pretrained(
                source, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            ).eval()
        self.held.move_to_end(key)
        return self.held[key]

    def processor(self, place: dict[str, Any]) -> Any:
        """The image processor at a place."""
        key = json.dumps(place, sort_keys=True)
        if key not in self.processors:
            source, revision = self._source(place)
            self.processors[key] = AutoImageProcessor.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
        return self.processors[key]

    def _source(self, place: dict[str, Any]) -> tuple[str, str | None]:
        return (str(self.folder / place["folder"]), None) if "folder" in place else (place["repo"], place["revision"])


@torch.inference_mode()
def classify(
    model: Any, processor: Any, image: Image.Image, columns: list[int] | None, labels: list[str], truth: int | None
) -> Seen:
    """The peer's best guesses; `truth` is the index of a label."""
    logits = model(**processor(images=[image], return_tensors="pt")).logits[0].float()
    logits = logits if columns is None else logits[columns]
    best = logits.softmax(0).topk(min(GUESSES, len(labels)))
    guesses = [
        (labels[index], value) for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    seen = Seen(guesses[0][1], guesses=guesses)
    if truth is not None:
        others = torch.cat([logits[:truth], logits[truth + 1 :]])
        seen.score = float(logits[truth] - others.logsumexp(0))
        seen.right = float(guesses[0][0] == labels[truth])
    return seen


@torch.inference_mode()
def segment(
    model: Any,
    processor: Any,
    image: Image.Image,
    columns: list[int] | None,
    labels: list[str],
    truth: torch.Tensor | None,
) -> Seen:
    """The peer's map; `truth` `[H, W]` has class ids, 255 where a pixel does not count."""
    made = processor(images=[image], return_tensors="pt")
    inputs = {key: made[key] for key in ("pixel_values", "pixel_mask") if key in made}
    log_probs = dense_log_probs(model(**inputs), inputs, columns, (image.height, image.width))
    best = log_probs.max(0)
    seen = Seen(float(best.values.exp().mean()), classes=best.indices)
    if truth is not None and bool((truth != IGNORE).any()):
        counts = truth != IGNORE
        own = log_probs.gather(0, truth.where(counts, 0)[None])[0]
        seen.score, seen.right = float(own[counts].mean()), float((best.indices == truth)[counts].float().mean())
    return seen


def dense_log_probs(
    outputs: Any, inputs: dict[str, torch.Tensor], columns: list[int] | None, size: tuple[int, int]
) -> torch.Tensor:
    """Log-probabilities `[C, H, W]` of either kind of head: logits per pixel, or queries with classes and masks."""
    queries = getattr(outputs, "masks_queries_logits", None)
    maps = (outputs.logits if queries is None else queries).float()
    if "pixel_mask" in inputs and not bool(inputs["pixel_mask"].all()):
        inside = inputs["pixel_mask"][0].bool()
        height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
        padded = (inside.shape[0], inside.shape[1])
        maps = F.interpolate(maps, padded, mode="bilinear", align_corners=False)[..., :height, :width]
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if queries is None:
        logits = maps[0] if columns is None else maps[0, columns]
        return logits.log_softmax(0)
    classes = outputs.class_queries_logits.float().softmax(-1)[0, :, :-1]
    classes = classes if columns is None else classes[:, columns]
    return torch.einsum("qc,qhw->chw", classes, maps[0].sigmoid()).clamp_min(1e-6).log().log_softmax(0)


TASKS: dict[str, tuple[Callable[..., Seen], tuple[Any, ...]]] = {
    "image-classification": (classify, (AutoModelForImageClassification,)),
    "semantic-segmentation": (segment, (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)),
}
"""By the task's name in `facts.json`: what one peer makes of an image, and the classes that load it."""


class Cohort:
    """The peers of a run, as `data/facts.json` describes them.

    Args:
        folder (`Path`): with `data/facts.json`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "data" / "facts.json").read_text(encoding="utf-8"))
        self.see, auto_models = TASKS[self.facts["task"]]
        self.models = Models(folder, auto_models)
        self.dense = self.facts["task"] == "semantic-segmentation"

    def truth_of(self, name: str | None, image: Image.Image) -> Any:
        """The index of a label; of a sample's name its mask `[H, W]`, where it fits the image; else `None`."""
        if not self.dense:
            return self.facts["labels"].index(name) if name in self.facts["labels"] else None
        for sample in self.facts["samples"]:
            if sample["name"] == name and sample.get("mask"):
                with Image.open(self.folder / sample["mask"]) as mask:
                    pixels = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
                return torch.from_numpy(pixels.astype(np.int64))
        return None

    def look(self, image: Image.Image, truth: Any) -> dict[str, dict[str, Seen | str]]:
        """What every peer sees, by name and phase, or in words why there is nothing to show."""
        return {
            peer["name"]: {phase: self._look(peer, phase, image, truth) for phase in PHASES}
            for peer in self.facts["peers"]
        }

    def _look(self, peer: dict[str, Any], phase: str, image: Image.Image, truth: Any) -> Seen | str:
        if peer[phase] is None:
            return peer["no_start"]
        try:
            model, processor = self.models.get(peer[phase]), self.models.processor(peer["end"])
        except (OSError, ValueError, ImportError) as error:
            print(f"{peer['name']}: {error}", flush=True)
            return "This model cannot be loaded at the moment; try again later."
        try:
            return self.see(model, processor, image, peer["columns"], self.facts["labels"], truth)
        except (RuntimeError, ValueError) as error:
            print(f"{peer['name']}: {error}", flush=True)
            return "This model cannot work on an image of this size; try another one."
