"""What makes a field of a dataclass an option: its group, its help, its rule; and what became of former options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Any

from ..errors import ConfigError

GROUPS = {
    "peers": "The peers",
    "data": "The data",
    "teaching": "Who teaches whom, and how strongly",
    "view": "What training changes in an image, sound or video",
    "training": "Training",
    "run": "The runs",
    "hub": "The Hub",
    "output": "What is written",
    "machine": "The machine",
}
"""What options are for. What follows from it is in no list of names: `data` says which rows there are, so that rows
are shared only where all of it is equal; `teaching` has no effect on a control; `run` is set by a suite itself."""


def option(group: str, default: Any, help: str, **kwargs: Any) -> Any:
    """A dataclass field of one of [`GROUPS`] with its help; a list or dict default is copied for every instance."""
    metadata = {"help": help, "group": group, **kwargs}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _of_the_peer(setting: str) -> str:
    return (
        f"it is a setting of the peer: --peers.NAME.{setting} VALUE, in YAML peers: {{NAME: {{source: ID, {setting}: "
        f"VALUE}}}}, in Python PeerSpec(ID, {setting}=VALUE)"
    )


GONE = {
    "peer_learning_rates": _of_the_peer("learning_rate"),
    "peer_weight_decays": _of_the_peer("weight_decay"),
    "frozen_peers": _of_the_peer("frozen"),
    "peer_processors": _of_the_peer("processor"),
    "on_bad_image": "use on_bad_row",
    "on_bad_video": "use on_bad_row",
    "role_source": "a score_table says who teaches wherever one is given; leave role_source out",
    "image_column": "it is input_column now",
}
"""Former options, and what says the same now."""

_IMAGES = ("image-classification", "multi-label-image-classification", "video-classification")
_SOUNDS = ("audio-classification", "multi-label-audio-classification", "video-classification")
_CLASSES = ("image-classification", "text-classification", "audio-classification", "video-classification")
_SEVERAL = tuple(f"multi-label-{kind}-classification" for kind in ("image", "text", "audio"))

OF_TASKS = {
    "labels_per_class": _CLASSES,
    "granularity": (*_SEVERAL, "semantic-segmentation"),
    "color_jitter": (*_IMAGES, "semantic-segmentation", "video-saliency"),
    "crop_min_area": (*_IMAGES, "video-saliency"),
    "crop_seconds": _SOUNDS,
    **dict.fromkeys(("reduce_labels", "label_colors", "crop_size", "scale_range"), ("semantic-segmentation",)),
    **dict.fromkeys(("transfer_grid", "pixel_loss_weight"), ("semantic-segmentation",)),
    **dict.fromkeys(("fixation_maxima", "eval_frame_step", "temporal_weight"), ("video-saliency",)),
}
"""Options that not every task knows, and the tasks that do: what an error says of them elsewhere."""


def refuse_gone(names: Iterable[str], where: str = "") -> None:
    """Raise [`ConfigError`] for an option that is now written otherwise, or is one of a task's own."""
    for name in names:
        if name in GONE:
            raise ConfigError(f"{where}{name} is no option any more: {GONE[name]}")
        if name in OF_TASKS:
            tasks = OF_TASKS[name]
            among = f", of {', '.join(tasks)}" if len(tasks) > 1 else ""
            raise ConfigError(f"{where}{name} is an option of the task{among}: make_task({tasks[0]!r}, {name}=…)")
