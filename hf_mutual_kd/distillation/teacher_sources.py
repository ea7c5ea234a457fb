"""Sources: with which weights teachers speak."""

from __future__ import annotations

from typing import ClassVar

from ..config.options import TransferOptions
from ..config.rules import check_numbers


class TeacherSource:
    """Where teachers' outputs come from: this step's weights, copies of them, or a table."""

    name: ClassVar[str]
    description: ClassVar[str]
    citation: ClassVar[str] = ""
    frozen: ClassVar[bool]
    """Whether teachers speak with copies, which take no gradient."""
    in_memory: ClassVar[bool] = True
    """Whether teachers are run; otherwise their targets come with the batch."""
    decay: float | None = None
    """Of copies that follow their peers; `None`: they stay as they are."""

    @classmethod
    def from_options(cls, options: TransferOptions) -> TeacherSource:
        """The source that options describe."""
        return cls()


class LiveSource(TeacherSource):
    """Teachers speak with this step's weights."""

    name = "live"
    description = "Teachers speak with the weights they have at this step."
    frozen = False


class FrozenSource(TeacherSource):
    """Teachers speak with copies of the weights they started from."""

    name = "frozen"
    description = "Teachers speak with frozen copies of the weights they started from."
    frozen = True


class EmaSource(TeacherSource):
    """
    Teachers speak with a moving average of their weights: after every optimizer step `a = d a + (1 - d) w`.

    The averages begin at the starts and take their place throughout: retention holds a peer to its own average, and
    under a rule that ranks peers by labels the mean of the averages teaches units without one. Statistics of batch
    norms are taken over as they are.

    Args:
        decay (`float`, *optional*, defaults to 0.99): d, 0 <= d < 1; an average remembers about 1 / (1 - d) steps.
    """

    name = "ema"
    description = "Teachers speak with a moving average of their weights, which begins at their starts."
    citation = "Tarvainen, Valpola: Mean teachers are better role models, NeurIPS 2017, arXiv 1703.01780"
    frozen = True

    def __init__(self, decay: float = 0.99):
        check_numbers(decay=decay)
        self.decay = decay

    @classmethod
    def from_options(cls, options: TransferOptions) -> TeacherSource:
        return cls(options.ema_decay)


class TableSource(TeacherSource):
    """Teachers speak from a score table."""

    name = "table"
    description = "Teachers speak as they did when a score table was made of them, without being in memory."
    frozen = True
    in_memory = False


SOURCES: dict[str, type[TeacherSource]] = {
    source.name: source for source in (LiveSource, FrozenSource, EmaSource, TableSource)
}
