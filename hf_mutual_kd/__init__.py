"""Pretrained models that teach each other. Public names load on first use; importing the package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .config.training_config import MutualKDConfig
    from .data.collator import RoleTaggingCollator
    from .data.role_table import RoleTable
    from .data.views import SharedView
    from .distillation.losses import transfer_loss
    from .distillation.objective import Objective
    from .distillation.roles import assign_roles
    from .errors import MutualKDError
    from .peers.cohort import Cohort, CohortOutput
    from .peers.spec import PeerSpec
    from .training.trainer import MutualKDTrainer

_HOMES = {
    "Cohort": "peers.cohort",
    "CohortOutput": "peers.cohort",
    "MutualKDConfig": "config.training_config",
    "MutualKDError": "errors",
    "MutualKDTrainer": "training.trainer",
    "Objective": "distillation.objective",
    "PeerSpec": "peers.spec",
    "RoleTable": "data.role_table",
    "RoleTaggingCollator": "data.collator",
    "SharedView": "data.views",
    "assign_roles": "distillation.roles",
    "transfer_loss": "distillation.losses",
}

__all__ = [
    "Cohort",
    "CohortOutput",
    "MutualKDConfig",
    "MutualKDError",
    "MutualKDTrainer",
    "Objective",
    "PeerSpec",
    "RoleTable",
    "RoleTaggingCollator",
    "SharedView",
    "__version__",
    "assign_roles",
    "transfer_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
