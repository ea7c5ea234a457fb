"""What is said of a task and its metrics: in tables, figures and cards, and on the Hub. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import OutputFolderError
from .terminal import percent


def text_under(head: str, value: float, sign: bool = False) -> str:
    """A value for a table, under a name that ends in `%` where it is a share between 0 and 1.

    Example:

    ```python
    >>> text_under("accuracy, %", 0.8731), text_under("CC", 0.8731)
    ('87.3', '0.873')
    ```
    """
    return percent(value, sign) if head.endswith("%") else f"{value:{'+' if sign else ''}.3f}"


@dataclass(frozen=True)
class TaskWords:
    """What is said of a task.

    A run's `cohort.json` carries them, so that its cards and pages need no task.

    Args:
        title (`str`): in a sentence, `"for …"`.
        metric (`str`): the metric that decides, and its name; greater is better.
        shown (`dict[str, str]`): metrics of a card's table and their names; a name that ends in `%` is a share between
            0 and 1, anything else a plain number.
        hub_metrics (`dict[str, tuple[str, str]]`, *optional*): type and name in a card's `model-index`, by metric.
        points (`str`, *optional*, defaults to `"points"`): what differences of `metric` are counted in.
        snippet (`str`, *optional*): code with `{model}` and `{example}`, both Python literals; cards show none where
            it is empty.
        snippets (`dict[str, str]`, *optional*): the code for model types whose outputs need another one.
        example (`str`, *optional*): what the snippet's `{example}` is called in a card.
        auto_model (`str`, *optional*): the class of transformers that loads an adapter with other classes than its
            base has; cards of such adapters show no code where it is empty.
        processor (`str`, *optional*): what a `pipeline` of transformers calls what prepares its inputs.
        kept (`str`, *optional*): the metric of `shown` by which an export is judged.
        alike (`str`, *optional*): how near an export's answers are to PyTorch's, 1 where they are the same; as the
            names of `shown`.
        pipeline_tag (`str`, *optional*): on the Hub, which has none for some tasks.
        tags (`tuple[str, ...]`, *optional*): further tags on the Hub.
        by_class (`str`, *optional*): begins a sentence on the metric per class; empty where there are no classes.
        note (`str`, *optional*): Markdown: how the metrics are counted, where that is not the same everywhere.
        examples (`str`, *optional*): under the figure that [`examples`] draws; a task without it draws none.
        counted (`str`, *optional*, defaults to `"samples"`): what intervals are over.
    """

    title: str
    metric: str
    shown: Mapping[str, str]
    hub_metrics: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    points: str = "points"
    snippet: str = ""
    snippets: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    processor: str = "image_processor"
    auto_model: str = ""
    kept: str = ""
    alike: str = ""
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    by_class: str = ""
    note: str = ""
    examples: str = ""
    counted: str = "samples"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TaskWords:
        """The words that `cohort.json` carries.

        Raises:
            [`OutputFolderError`]: there are none, or they are damaged.
        """
        given = record.get("words")
        known = {item.name for item in fields(cls)}
        if not isinstance(given, dict) or not {"title", "metric", "shown"} <= set(given) <= known:
            raise OutputFolderError(
                f"the record says nothing of its task {record.get('task')!r} ('words' of cohort.json is missing or "
                "damaged): run again, or restore it"
            )
        words = cls(**{**given, "tags": tuple(given.get("tags") or ())})
        if not isinstance(words.shown, dict) or words.metric not in words.shown:
            raise OutputFolderError(f"'words' of cohort.json: metric {words.metric!r} is none of those that are shown")
        return words

    def to_record(self) -> dict[str, Any]:
        """What `cohort.json` carries, ready for JSON."""
        return asdict(self)

    def is_share(self, metric: str) -> bool:
        """Whether a metric is a share, shown in %."""
        return self.shown[metric].endswith("%")

    @property
    def share(self) -> bool:
        """Whether the deciding metric is one."""
        return self.is_share(self.metric)

    @property
    def scale(self) -> int:
        """What values of the deciding metric are multiplied with in figures."""
        return 100 if self.share else 1

    @property
    def column(self) -> str:
        """The deciding metric as the head of a column, `"accuracy %"` or `"CC"`."""
        return f"{self.metric} %" if self.share else self.metric

    def text(self, value: float, sign: bool = False) -> str:
        """A value of the deciding metric for a table: `0.8731` as `87.3`, a CC as `0.873`; differences with a `sign`.

        Example:

        ```python
        >>> TaskWords("flowers", "accuracy", {"accuracy": "accuracy, %"}).text(0.0042, sign=True)
        '+0.42'
        >>> TaskWords("where people look", "CC", {"CC": "CC"}).text(0.0042, sign=True)
        '+0.004'
        ```
        """
        return self.text_of(self.metric, value, sign=sign)

    def text_of(self, metric: str, value: float, *, sign: bool = False) -> str:
        """[`text`] for any metric that is shown."""
        return text_under(self.shown[metric], value, sign)

    def unit(self, value: float) -> str:
        """A value with its unit, `"87.3 %"` or `"0.873"`."""
        return f"{self.text(value)} %" if self.share else self.text(value)

    def snippet_of(self, model_type: str | None) -> str:
        """The code for a model of this type."""
        return self.snippets.get(model_type or "", self.snippet)
