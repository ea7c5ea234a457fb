"""Options of the rows: where they come from, which columns are read, and how many are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import option, refuse_gone
from .rules import COUNT


@dataclass
class ColumnOptions:
    """Which columns of the rows are read."""

    def __new__(cls, *args: Any, **given: Any) -> Any:
        refuse_gone(name for name in given if name not in cls.__dataclass_fields__)
        return super().__new__(cls)

    input_column: str | None = option(
        "data",
        None,
        "Column that holds the input, such as the image; unset: 'image', or the one column of images.",
        often=True,
    )
    label_column: str | None = option(
        "data",
        None,
        "Column that holds the label or mask, null or -1 for none; unset: 'label', or the one column of class labels.",
        often=True,
    )


@dataclass
class DataOptions(ColumnOptions):
    """Which rows there are.

    Args:
        dataset (`str`): a Hub id, a `save_to_disk` folder, an image folder, or Parquet files.
    """

    dataset: str | None = option(
        "data",
        None,
        "Hub id, save_to_disk folder, image folder, or Parquet file, folder or glob.",
        place=True,
        often=True,
    )
    dataset_config: str | None = option("data", None, "Name of the data set's configuration on the Hub.")
    dataset_revision: str | None = option("data", None, "Branch, tag or commit of the data set on the Hub.")
    train_split: str = option("data", "train", "Split to learn from.", often=True)
    validation_split: str | None = option(
        "data", None, "Split that selects; unset: 'validation' or a tenth of train.", often=True
    )
    test_split: str | None = option(
        "data", None, "Split that is reported; unset: 'test' or half of validation.", often=True
    )
    files_from: list[str] = option(
        "data",
        [],
        "Folders outside of the data set's own in which its rows may name files; 'anywhere': all, addresses too.",
    )
    label_names: list[str] = option(
        "data",
        [],
        "Names of the classes: a JSON file, or NAME,NAME …; unset: those of the data set, else of the peers.",
        often=True,
    )
    streaming: bool = option("data", False, "Read the data set as a stream, without storing it.")
    max_train_samples: int | None = option("data", None, "Use only so many training rows.", rule=COUNT, often=True)
    max_eval_samples: int | None = option(
        "data", None, "Use only so many rows of the validation and test splits.", rule=COUNT
    )
    max_labelled_samples: int | None = option(
        "data", None, "Hide the labels of all training rows but so many.", rule=COUNT
    )
