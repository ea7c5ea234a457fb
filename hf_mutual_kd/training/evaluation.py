"""What was measured of the peers on one split: as they started, and the last time since."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..tasks.base import Evaluator


@dataclass(frozen=True)
class Measurement:
    """One pass over a split.

    Args:
        evaluator ([`Evaluator`]): which has seen all of it.
        metrics (`dict`): what it found, `{peer: {metric: value}}`, the cohort's own under `"cohort"`.
    """

    evaluator: Evaluator
    metrics: dict[str, dict[str, float]]

    @classmethod
    def of(cls, evaluator: Evaluator) -> Measurement:
        """What an evaluator found."""
        return cls(evaluator, evaluator.compute())


@dataclass
class Evaluation:
    """One split, before and after.

    Args:
        start ([`Measurement`], *optional*): of the peers as they started; later passes count flips against it.
        end ([`Measurement`], *optional*): the last one.
    """

    start: Measurement | None = None
    end: Measurement | None = None

    @property
    def is_whole(self) -> bool:
        """Whether both were measured."""
        return self.start is not None and self.end is not None

    def both(self, split: str) -> tuple[Measurement, Measurement]:
        """Start and end, or a [`ConfigError`] that names the split."""
        if self.start is None or self.end is None:
            raise ConfigError(
                f"{split!r} was not measured before and after: call `measure_start` with "
                f"metric_key_prefix={split!r} before `train`, and `evaluate` with the same after it"
            )
        return self.start, self.end
