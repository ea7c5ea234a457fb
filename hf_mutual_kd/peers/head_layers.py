"""Which layers of a model depend on the number of classes, asked of its configuration alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..tasks.base import Task


def renew_head(model: nn.Module, task: Task, config: Any, code: dict) -> None:
    """Draw the classifier anew where it has the right size already, which loading leaves as it was."""
    for key in head_weights(task, config, code):
        if key.endswith(".weight"):
            head: Any = model.get_submodule(key.removesuffix(".weight"))
            head.reset_parameters()


def head_weights(task: Task, config: Any, code: dict) -> list[str]:
    """Names of the weights whose shape depends on the number of classes."""
    shapes = []
    for classes in (config.num_labels, config.num_labels + 1):
        sized = copy.deepcopy(config)
        sized.num_labels = classes
        with torch.device("meta"):
            probe = task.auto_model(sized).from_config(sized, **code)
        shapes.append({key: parameter.shape for key, parameter in probe.named_parameters()})
    return [key for key in shapes[0] if shapes[0][key] != shapes[1][key]]


def head_layers(task: Task, config: Any, code: dict) -> list[str]:
    """Names of the layers that hold the weights of [`head_weights`]."""
    return sorted({weight.rpartition(".")[0] for weight in head_weights(task, config, code)})
