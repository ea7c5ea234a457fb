"""Tiny data sets for the tests: each image is of one grey value, which tells the rows apart."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_mutual_kd import ClassOptions, RecipeOptions, Splits, load_splits
from hf_mutual_kd.config.task_options import MaskOptions
from hf_mutual_kd.data.splits import decode_image

ROOT = Path(__file__).parents[1]
FEATURES = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})


SIZES = {"train": 24, "validation": 12, "test": 15}


def png(value: int = 0, size: tuple[int, int] = (4, 4), **kwargs) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG", **kwargs)
    return stream.getvalue()


def rows(count: int, first: int = 0) -> dict:
    values = range(first, first + count)
    return {"image": [{"bytes": png(value), "path": None} for value in values], "label": [v % 2 for v in values]}


def table(count: int, first: int = 0, features: Features | None = FEATURES, **columns) -> Dataset:
    return Dataset.from_dict({**rows(count, first), **columns}, features=features)


def plain(labels: list, kind: str = "int64") -> Dataset:
    features = Features({"image": ImageFeature(), "label": Value(kind)})
    return Dataset.from_dict({"image": rows(len(labels))["image"], "label": labels}, features=features)


def save(folder: Path, **splits: Dataset) -> str:
    DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


def save_drawn(rows: Callable[..., Dataset], folder: Path, sizes=SIZES, **more) -> str:
    """Three splits of what `rows` draws of a count and a seed, saved."""
    return save(folder, **{name: rows(count, seed, **more) for seed, (name, count) in enumerate(sizes.items())})


def load(path, *, seed: int = 0, labels: bool = True, target: str = "class", **options) -> Splits:
    kind = {"class": ClassOptions, "classes": RecipeOptions, "mask": MaskOptions}[target]
    return load_splits(kind(dataset=str(path), **options), seed=seed, labels=labels, target=target)


def pixels(split) -> list[int]:
    """Each test image is of one grey value, which tells the rows apart."""
    return [decode_image(row["image"]).getpixel((0, 0))[0] for row in split]


def write_parquet(path: Path, count: int, first: int = 0, metadata: bool = False, labels: list | None = None) -> None:
    if metadata:
        table(count, first).to_parquet(str(path))
        return
    values = rows(count, first)
    pq.write_table(pa.table({"image": values["image"], "label": pa.array(labels or values["label"])}), path)
