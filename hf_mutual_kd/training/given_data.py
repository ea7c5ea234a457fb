"""How the trainer takes data sets as they come: when it is made, when one is set later, and when one is evaluated."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from ..config.training_config import MutualKDConfig
from ..data.collator import identified
from ..data.columns import check_classes
from ..data.given_rows import GivenRows
from ..peers.cohort import Cohort


class CohortData(Trainer):
    """The part of [`MutualKDTrainer`] that reads data sets."""

    args: MutualKDConfig
    given: GivenRows
    given_cohort: Cohort
    eval_collator: Any
    _train_rows: Any = None
    _eval_rows: Any = None
    _is_made: bool = False

    @property
    def train_dataset(self) -> Any:
        """The rows that are learned from, with their `sample_id`."""
        return self._train_rows

    @train_dataset.setter
    def train_dataset(self, rows: Any) -> None:
        self._train_rows = self._read(rows, "train_dataset", trains=True)
        if self._is_made:
            self._train_on_others()

    def _train_on_others(self) -> None:
        """Called when the trainer is given other rows than it was made with."""

    @property
    def eval_dataset(self) -> Any:
        """The rows that select, or several by name, of which the first selects."""
        return self._eval_rows

    @eval_dataset.setter
    def eval_dataset(self, rows: Any) -> None:
        self._eval_rows = self._read_each(rows, "eval_dataset")

    def _read_each(self, rows: Any, name: str) -> Any:
        """One data set or several by name, as [`_read`]; the name of a data set stays as it is."""
        if isinstance(rows, dict):
            return {key: self._read(part, f"{name}[{key!r}]") for key, part in rows.items()}
        return rows if isinstance(rows, str) else self._read(rows, name)

    def _read(self, rows: Any, name: str, trains: bool = False) -> Any:
        """
        Rows that carry `image`, `label` and `sample_id`; the cohort takes over the names of classes that they bring.

        Raises:
            [`DataError`], [`LabelError`]: see [`GivenRows.read`]; a label that is none of the cohort's classes.
        """
        read, cohort = self.given.read(rows, name, trains), self.given_cohort
        if self.given.names is not None and not cohort.names_given and self.given.names != cohort.label_names:
            cohort.name_labels(self.given.names)
            if self._is_made:
                collators: list[Any] = [self.data_collator, self.eval_collator]
                for collator in collators:
                    getattr(collator, "collator", collator).label_names = cohort.label_names
        if self.given.target == "class" and cohort.label_names:
            check_classes(read, name, len(cohort.label_names))
        return identified(read)
