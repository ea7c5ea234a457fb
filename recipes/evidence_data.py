"""Fashion-MNIST as tensors for `recipes/evidence.py`: rows to pretrain on, to learn from and to be judged by."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from embedded.make_data import CLASS_NAMES, SOURCE, read_idx
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hf_mutual_kd import DataError

EMBEDDED = Path(__file__).resolve().parent / "embedded" / "fashion_mnist"
SPLIT_SEED = 20251022
PRETRAIN_ROWS, TRANSFER_ROWS, EXTRA_ROWS = 30_000, 10_000, 15_000
"""Of the 60,000 rows of the official train file; the 5,000 that remain are for validation."""
PIXEL_MEAN, PIXEL_STD = 0.286, 0.353
"""Of Fashion-MNIST's training pixels, taken as 0 to 1."""


@dataclass(frozen=True)
class Rows:
    """Images and what they show.

    Args:
        images (`torch.Tensor` of shape `[rows, 1, 28, 28]`): standardised pixels.
        labels (`torch.LongTensor` of shape `[rows]`): class ids; -1 where there is no label.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice) -> Rows:
        """Some of the rows."""
        return Rows(self.images[index], self.labels[index])


@dataclass(frozen=True)
class FashionMNIST:
    """Four parts that share no row.

    Args:
        source (`str`): where they come from, in words.
        pretrain ([`Rows`]): what members are pretrained on.
        transfer ([`Rows`]): fresh rows; those with a label come first.
        validation ([`Rows`]): what chooses between controls.
        held ([`Rows`]): what is reported.
    """

    source: str
    pretrain: Rows
    transfer: Rows
    validation: Rows
    held: Rows


def load(source: str | None = None, limit: int | None = None) -> FashionMNIST:
    """Read the data.

    Args:
        source (`str`, *optional*): folder of Debian's package `dataset-fashion-mnist`, or `"embedded"`; unset: the
            package where it is installed, else the embedded Parquet files.
        limit (`int`, *optional*): read only so many rows of each part, to try the recipe out.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: the folder does not hold the four files of the package.
    """
    if source == "embedded" or (source is None and not has_package(SOURCE)):
        return load_embedded(limit)
    folder = Path(source or SOURCE)
    if not has_package(folder):
        raise DataError(
            f"{folder} holds no train-images-idx3-ubyte.gz; expected the folder of Debian's package "
            "dataset-fashion-mnist, or 'embedded' for the smaller files of this repository"
        )
    return load_package(folder, limit)


def has_package(folder: Path) -> bool:
    """Whether the files of Debian's package lie there."""
    return (folder / "train-images-idx3-ubyte.gz").is_file()


def load_package(folder: Path, limit: int | None = None) -> FashionMNIST:
    """All 70,000 rows; held-out are the official test file and 15,000 rows of the train file."""
    train, test = (
        make_rows(read_idx(folder / f"{part}-images-idx3-ubyte.gz"), read_idx(folder / f"{part}-labels-idx1-ubyte.gz"))
        for part in ("train", "t10k")
    )
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(train)))
    sizes = [PRETRAIN_ROWS, TRANSFER_ROWS, EXTRA_ROWS, len(train) - PRETRAIN_ROWS - TRANSFER_ROWS - EXTRA_ROWS]
    pretrain, transfer, extra, validation = (train.take(index) for index in order.split(sizes))
    held = Rows(torch.cat([test.images, extra.images]), torch.cat([test.labels, extra.labels]))
    parts = (part.take(slice(limit)) for part in (pretrain, transfer, validation, held))
    return FashionMNIST("all of Fashion-MNIST (Debian's dataset-fashion-mnist)", *parts)


def load_embedded(limit: int | None = None) -> FashionMNIST:
    """The rows that the repository carries: 30,000, of which 1,000 of the 8,000 fresh ones have a label."""
    names = ("pretrain", "train", "validation", "test")
    parts = {name: read_parquet(EMBEDDED / f"{name}.parquet", limit) for name in names}
    labelled_first = torch.argsort(parts["train"].labels < 0, stable=True)
    return FashionMNIST(
        "the embedded part of Fashion-MNIST",
        parts["pretrain"],
        parts["train"].take(labelled_first),
        parts["validation"],
        parts["test"],
    )


def read_parquet(path: Path, limit: int | None = None) -> Rows:
    """One embedded file, or its first rows."""
    table = pq.read_table(path).slice(0, limit)
    pixels = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["image"].to_pylist()]
    return make_rows(np.stack(pixels), np.array(table["label"].to_pylist()))


def make_rows(pixels: np.ndarray, labels: np.ndarray) -> Rows:
    """Standardise uint8 pixels `[rows, 28, 28]`."""
    images = torch.from_numpy(pixels.copy()).unsqueeze(1).float().div_(255).sub_(PIXEL_MEAN).div_(PIXEL_STD)
    return Rows(images, torch.from_numpy(labels.astype(np.int64)))


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to one pixel in each direction.

    Args:
        images (`torch.Tensor`): `[B, C, H, W]`; what moves in from outside repeats the border.
        generator (`torch.Generator`): draws the moves.

    Returns:
        `torch.Tensor`: `[B, C, H, W]`.

    Example:

    ```python
    >>> shift(torch.eye(2)[None, None], torch.Generator().manual_seed(0)).shape
    torch.Size([1, 1, 2, 2])
    ```
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 3, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, down, right]


def slice_of(rows: Rows, seed: int, slices: int = 3) -> Rows:
    """The `seed`-th of three disjoint parts: 10,000 of 30,000 rows."""
    size = len(rows) // slices
    start = seed % slices * size
    return rows.take(slice(start, start + size))


def skewed(rows: Rows, seed: int, member: int) -> Rows:
    """Rows for one of two specialists: 60 % of the rows of five classes, and a ninth as many of the other five.

    Args:
        rows ([`Rows`]): what to draw from; no row goes to both.
        seed (`int`): which draw.
        member (`int`): 0 knows the first five classes, 1 the others.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED + seed)
    chosen = []
    for label in range(len(CLASS_NAMES)):
        places = (rows.labels == label).nonzero().squeeze(1)
        places = places[torch.randperm(len(places), generator=generator)]
        many = len(places) * 3 // 5
        chosen.append(places[:many] if label // 5 == member else places[many : many + max(many // 9, 1)])
    return rows.take(torch.cat(chosen))


DIGIT_ROWS = {"pretrain": 450, "transfer": 700, "validation": 200}
"""Of scikit-learn's 1,797 digits; the 447 that remain are held out."""
DIGIT_COPIES = 10
"""How often a pretraining row is repeated, each time to be shifted anew: else an epoch would be a single batch."""


def load_digits(limit: int | None = None) -> FashionMNIST:
    """scikit-learn's handwritten digits, enlarged from 8x8 to 28x28 pixels, in the same four parts.

    Args:
        limit (`int`, *optional*): read only so many rows of each part.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: scikit-learn, which carries them, is missing.
    """
    try:
        from sklearn.datasets import load_digits as read_digits
    except ImportError:
        raise DataError("the digits come with scikit-learn: pip install scikit-learn, or --no_digits") from None
    found = read_digits()
    small = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    images = functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    rows = Rows((images - images.mean()) / images.std(), torch.from_numpy(found.target).long())
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(len(rows)))
    sizes = [*DIGIT_ROWS.values(), len(rows) - sum(DIGIT_ROWS.values())]
    pretrain, transfer, validation, held = (rows.take(index) for index in order.split(sizes))
    thirds = torch.arange(len(pretrain)).view(3, -1).repeat(1, DIGIT_COPIES).flatten()
    parts = (part.take(slice(limit)) for part in (pretrain.take(thirds), transfer, validation, held))
    return FashionMNIST("scikit-learn's handwritten digits, 28x28", *parts)
