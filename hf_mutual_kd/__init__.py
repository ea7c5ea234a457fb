"""Pretrained models that teach each other. Public names load on first use; importing the package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .cohort import Cohort, CohortOutput
    from .collator import RoleTaggingCollator
    from .config import MutualKDConfig
    from .errors import MutualKDError
    from .losses import transfer_loss
    from .peers import PeerSpec
    from .role_table import RoleTable
    from .roles import assign_roles
    from .teachers import Objective
    from .trainer import MutualKDTrainer
    from .transforms import SharedView

_HOMES = {
    "Cohort": "cohort",
    "CohortOutput": "cohort",
    "MutualKDConfig": "config",
    "MutualKDError": "errors",
    "MutualKDTrainer": "trainer",
    "Objective": "teachers",
    "PeerSpec": "peers",
    "RoleTable": "role_table",
    "RoleTaggingCollator": "collator",
    "SharedView": "transforms",
    "assign_roles": "roles",
    "transfer_loss": "losses",
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
