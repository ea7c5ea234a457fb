"""What the tasks with one image have in common on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from answer import Ranking, signed
from transformers import AutoConfig, AutoImageProcessor
from uploads import MOST_FILE
from view import PHASES, Looks, View, path_of
from weight_files import check_weight_files


@dataclass
class Seen:
    """What one peer makes of an image, at one time.

    Args:
        confidence (`float`): probability of its own best class, of a map the mean over the pixels.
        score (`float`, *optional*): how well it knows the truth, where that is known: the margin in nats, of a map
            minus the mean cross-entropy of its pixels. The best score teaches.
        right (`float`, *optional*): 0 or 1, of a map the share of pixels.
    """

    confidence: float
    score: float | None = None
    right: float | None = None


class ImageView(View):
    """A visitor gives an image."""

    most_file = MOST_FILE
    auto_models: Sequence[Any]
    """Classes of transformers, the first that knows a model's configuration loads it."""

    def subject_input(self) -> Any:
        image = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label="Image",
            height=260,
            buttons=[],
            elem_id="upload",
            alt_text="the image that the peers are asked about",
        )
        # On the instance, as gradio writes a file beside the source of every subclass.
        image.preprocess = path_of  # type: ignore[method-assign]
        return image

    def sample_value(self, sample: dict[str, Any]) -> str:
        return str(self.folder / sample["image"])

    def load(self, source: str, revision: str | None) -> Any:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        check_weight_files(source, revision, config)
        auto = next((cls for cls in self.auto_models if type(config) in cls._model_mapping), self.auto_models[0])
        return auto.from_pretrained(
            source, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )

    def load_processor(self, source: str, revision: str | None) -> Any:
        return AutoImageProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)

    def ranking(self, seen: Looks, knows: bool) -> Ranking:
        """By the truth, or by confidence, which names no teacher."""
        value: Callable[[Seen], float | None] = (lambda one: one.score) if knows else (lambda one: one.confidence)
        values = {
            phase: [value(one) if isinstance(one := phases[phase], Seen) else None for phases in seen.values()]
            for phase in PHASES
        }
        if knows:
            return Ranking(list(seen), values, self.facts["score"], signed)
        return Ranking(
            list(seen),
            values,
            "confidence: the probability of its own best guess",
            percent,
            "Without the truth nobody can say who should teach: being sure is not being right.",
            ("is the surest of its guess", "no peer is surer than the others"),
        )


def percent(share: float) -> str:
    """A share with its unit."""
    return f"{100 * share:.1f} %"
