"""Texts around the names of classes, for peers that read them."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError

PIPELINE = ("This is a photo of {}.",)
"""What `pipeline("zero-shot-image-classification")` uses where it is told nothing: a saved peer's pipeline and widget
then answer as the peer was trained."""
CLIP = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven of CLIP's authors for ImageNet: Radford et al., ICML 2021, arXiv 2103.00020, notebooks of their code."""


def templates_of(given: Sequence[str] | None) -> list[str]:
    """The templates that a user means: `clip` alone stands for [`CLIP`], nothing for [`PIPELINE`].

    Raises:
        [`ConfigError`]: one of them is no template.
    """
    templates = list(PIPELINE if given is None else CLIP if list(given) == ["clip"] else given)
    check_templates(templates)
    return templates


def check_templates(templates: Sequence[str]) -> None:
    """Raise [`ConfigError`] for a text that has not exactly one place for a name."""
    for template in templates:
        if template.count("{}") != 1 or {"{", "}"} & set(template.replace("{}", "")):
            raise ConfigError(
                f"prompt_templates: {template!r} is no template: it needs one {{}} where the name of the class goes, "
                "as in 'a photo of a {}.'"
            )
    if len(set(templates)) != len(templates) or not templates:
        raise ConfigError(f"prompt_templates must be one or more different templates, got {list(templates)}")
