"""What the folder of a saved peer that reads the names of its classes says of them. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

READS = "zero_shot.json"
"""Names of the classes and templates of an adapter on a model that reads them; else config.json has them."""
PIPELINE_TAG = "zero-shot-image-classification"

SNIPPET = """from transformers import pipeline

classifier = pipeline("zero-shot-image-classification", model={model})
labels = $labels
for guess in classifier({example}, candidate_labels=labels, hypothesis_template=$templates)[:3]:
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

SNIPPET_OF_SEVERAL = """from math import log

from transformers import pipeline

classifier = pipeline("zero-shot-image-classification", model={model})
labels = $labels
templates = $templates
logits = dict.fromkeys(labels, 0.0)
for template in templates:
    for guess in classifier({example}, candidate_labels=labels, hypothesis_template=template):
        logits[guess["label"]] += $logit / len(templates)
for label in sorted(labels, key=logits.get, reverse=True)[:3]:
    print(f"{{label}}: {{logits[label]:.3f}}")"""

LOGIT = """log(max(guess["score"], 1e-30))"""
LOGIT_OF_SIGMOID = """log(max(guess["score"], 1e-30) / max(1 - guess["score"], 1e-30))"""


@dataclass(frozen=True)
class Reads:
    """What a classifier was made of.

    Args:
        labels (`list[str]`): names of the classes, in the order of its logits.
        templates (`list[str]`): texts with one `{}`.
        is_siglip (`bool`): whether its pipeline answers with sigmoids.
    """

    labels: list[str]
    templates: list[str]
    is_siglip: bool

    @property
    def snippet(self) -> str:
        """Code with `{model}` and `{example}` that gives what the peer was trained to."""
        several = len(self.templates) > 1
        return Template(SNIPPET_OF_SEVERAL if several else SNIPPET).substitute(
            labels=_literal(self.labels),
            templates=_literal(self.templates if several else self.templates[0]),
            logit=LOGIT_OF_SIGMOID if self.is_siglip else LOGIT,
        )


def _literal(value: list[str] | str) -> str:
    return repr(value).replace("{", "{{").replace("}", "}}")


def reads_of(folder: Path) -> Reads | None:
    """What a saved peer reads; `None` where it is no such peer."""
    for name in ("config.json", READS):
        try:
            facts = json.loads((folder / name).read_text(encoding="utf-8"))
            templates = facts.get("prompt_templates")
            by_id = facts.get("id2label") or {}
            labels = facts.get("labels") or [by_id[index] for index in sorted(by_id, key=int)]
        except (OSError, ValueError, AttributeError):
            continue
        if templates and labels:
            return Reads(
                [str(label) for label in labels],
                [str(one) for one in templates],
                "siglip" in str(facts.get("model_type")),
            )
    return None
