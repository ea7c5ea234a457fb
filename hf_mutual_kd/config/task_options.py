"""Options that several tasks know, one dataclass each: a task's own derives from those that it knows. No torch.

What a single task knows is in its folder: `tasks/<task>/options.py`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import Any, Literal, TypeVar

from .fields import option
from .options import RecipeOptions
from .rules import CLIP_SECONDS, COUNT, NOT_NEGATIVE, SHARE

Options = TypeVar("Options", bound=RecipeOptions)


@dataclass
class ClassOptions(RecipeOptions):
    """Of tasks with one class of each row."""

    labels_per_class: int | None = option(
        "data", None, "Hide the labels of all training rows but so many of each class.", rule=COUNT
    )


@dataclass
class SeveralLabelsOptions(RecipeOptions):
    """Of tasks with several labels of each row."""

    granularity: Literal["image", "class"] = option(
        "teaching", "image", "Unit of who teaches: a row, or every class of it."
    )


@dataclass
class MaskOptions(RecipeOptions):
    """Of tasks whose rows have masks: how these are read."""

    reduce_labels: bool = option(
        "data", False, "Masks count the classes from 1: ignore 0 and count from 0, once, for all peers."
    )
    label_colors: list[str] = option(
        "data",
        [],
        "What stands for each class in masks, in the order of the classes: greys (0 255) or colors ('#000000' "
        "'#800000' …); other pixels are refused but for 255, which is ignored. Unset: the classes' numbers.",
    )


@dataclass
class ColorOptions(RecipeOptions):
    """Of tasks with a view of images."""

    color_jitter: float = option(
        "view", 0.0, "Strength of random brightness, contrast and saturation changes.", rule=NOT_NEGATIVE
    )


@dataclass
class CropOptions(ColorOptions):
    """Of tasks whose view crops images or frames to a share of them."""

    crop_min_area: float = option(
        "view", 0.6, "Smallest share of the image that a random crop keeps, above 0, at most 1.", rule=SHARE
    )


@dataclass
class ClipOptions(RecipeOptions):
    """Of tasks whose view takes a stretch of a sound or video."""

    crop_seconds: float = option(
        "view",
        5.0,
        "Of sounds and videos: seconds that a random crop keeps in training, 0.3 to 30; shorter ones stay whole.",
        rule=CLIP_SECONDS,
    )


def own_fields(options: Any) -> list[Field[Any]]:
    """The options of a task's dataclass, or an instance of it, that not every task knows."""
    common = {item.name for item in fields(RecipeOptions)}
    return [item for item in fields(options) if item.name not in common]


def completed(options: RecipeOptions, cls: type[Options]) -> Options:
    """The options as ones of `cls`, whose own are at their defaults; as they are where they are that already."""
    if isinstance(options, cls):
        return options
    return cls(**{item.name: getattr(options, item.name) for item in fields(options)})
