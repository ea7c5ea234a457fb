"""Classification on the page: an image and its label, bars of the peers' guesses."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import torch
from answer import about, beside, rule_of, teaching
from image_view import ImageView, Seen, percent
from transformers import AutoModelForImageClassification
from uploads import read_image
from view import Given, Looks

GUESSES, MOST_SHOWN = 3, 8


@dataclass
class Guessed(Seen):
    """With label and probability of the best classes."""

    guesses: list[tuple[str, float]] = field(default_factory=list)


class ClassificationView(ImageView):
    """The truth is the index of a label; with several labels per sample all their indices."""

    auto_models = (AutoModelForImageClassification,)

    def truth_input(self) -> Any:
        if self.facts.get("several"):
            return gr.CheckboxGroup(
                self.facts["labels"],
                value=None,
                label="What it really is: all that you know",
                elem_id="truth",
                info="The truth decides who teaches; tick nothing where you do not know it.",
            )
        return gr.Dropdown(
            self.facts["labels"],
            value=None,
            label="What it really is, if you know",
            elem_id="truth",
            info="The truth decides who teaches.",
        )

    def read(self, given: str | None, truth: Any) -> Given:
        labels, subject = self.facts["labels"], self.subject(given)
        if self.facts.get("several"):
            said = truth if isinstance(truth, list) else []
            return Given(subject, [labels.index(one) for one in said if one in labels] or None)
        return Given(subject, labels.index(truth) if truth in labels else None)

    def subject(self, given: str | None) -> Any:
        """What a visitor gave, read."""
        return read_image(given)

    def inputs(self, processor: Any, subject: Any) -> dict[str, Any]:
        """What a peer is given of it."""
        return processor(images=[subject], return_tensors="pt")

    @torch.inference_mode()
    def see(self, model: Any, processor: Any, peer: dict[str, Any], given: Given) -> Guessed:
        labels, truth = self.facts["labels"], given.truth
        logits = model(**self.inputs(processor, given.subject)).logits[0].float()
        logits = logits if peer["columns"] is None else logits[peer["columns"]]
        if self.facts.get("several"):
            return self._see_several(logits, truth)
        best = logits.softmax(0).topk(min(GUESSES, len(labels)))
        guesses = [
            (labels[index], value) for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        seen = Guessed(guesses[0][1], guesses=guesses)
        if truth is not None:
            others = torch.cat([logits[:truth], logits[truth + 1 :]])
            seen.score = float(logits[truth] - others.logsumexp(0))
            seen.right = float(guesses[0][0] == labels[truth])
        return seen

    def _see_several(self, logits: torch.Tensor, truth: list[int] | None) -> Guessed:
        """The sigmoids of the classes, the surest first."""
        labels, shares = self.facts["labels"], logits.sigmoid()
        best = shares.topk(min(MOST_SHOWN, len(labels)))
        guesses = [(labels[at], value) for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        seen = Guessed(float(torch.maximum(shares, 1 - shares).mean()), guesses=guesses)
        if truth is not None:
            wanted = torch.zeros_like(logits)
            wanted[truth] = 1.0
            seen.score = -float(torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted))
            seen.right = float(((logits > 0) == (wanted > 0)).float().mean())
        return seen

    def answer(self, given: Given, seen: Looks) -> list[str]:
        if given.truth is None:
            right = None
        else:
            several = given.truth if isinstance(given.truth, list) else [given.truth]
            right = {self.facts["labels"][one] for one in several}
        who = teaching(self.ranking(seen, given.truth is not None))
        parts = [f"<section><h2>Who would teach whom</h2>{who}{rule_of(self.facts)}</section>"]
        for peer in self.facts["peers"]:
            halves = beside(seen[peer["name"]], lambda one, when: bars(one, right, bool(self.facts.get("several"))))
            parts.append(f"<section class=peer>{about(peer)}{halves}</section>")
        return parts


def bars(seen: Guessed, right: set[str] | None, several: bool = False) -> str:
    """The best guesses: ✓ or ✗ at the answer, the first, or all that are said; the truth is marked wherever it is."""
    shown = []
    for place, (label, share) in enumerate(seen.guesses):
        word = "hit" if right and label in right else ""
        is_said = share > 0.5 if several else not place
        mark = "" if right is None or not is_said else "✓ " if word else "✗ "
        shown.append(
            f'<li class="{word}"><span class=label>{mark}{html.escape(label)}</span>'
            f"<span class=track><i style=width:{100 * share:.1f}%></i></span><span>{percent(share)}</span></li>"
        )
    return f"<ol class=bars>{''.join(shown)}</ol>"


VIEW = ClassificationView
