"""Which peers get a new head, and for which classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PeerError
from ..tasks.base import Task
from ..tasks.new_heads import is_headless


@dataclass(frozen=True)
class HeadLabels:
    """The classes of new heads: `renewed` for every peer, else `missing` for those that have no head."""

    renewed: Sequence[str] | None = None
    missing: Sequence[str] | None = None

    def wanted(self, name: str, config: Any, task: Task) -> Sequence[str] | None:
        """Those of a peer's new head, `None` where it keeps its own.

        Raises:
            [`PeerError`]: it needs a head, and nobody said for which classes.
        """
        if self.renewed is not None or not needs_head(config, task):
            return self.renewed
        if not self.missing and task.has_classes:
            kind = (getattr(config, "architectures", None) or [config.model_type])[0]
            raise PeerError(
                f"peer {name!r} is a {kind}, which has no head; it gets a new one where the data set's label names "
                "are known: give `label_names`, or a data set that names its classes"
            )
        return list(self.missing or ())


def needs_head(config: Any, task: Task) -> bool:
    """Whether a checkpoint is an encoder alone that the task can put a head on."""
    architectures = getattr(config, "architectures", None) or []
    if getattr(config, "auto_map", None) or task.architectures().intersection(architectures):
        return False
    return task.takes_encoder(config) and (is_headless(config) or not task.has_classes)
