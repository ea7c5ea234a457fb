"""Make the embedded Parquet files from Debian's `dataset-fashion-mnist`: `python recipes/embedded/make_data.py`.

Running it twice with the same libraries gives byte-identical files.
"""

from __future__ import annotations

import argparse
import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_mutual_kd import whole

HERE = Path(__file__).resolve().parent
SOURCE = Path("/usr/share/datasets/fashion-mnist")

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Fashion-MNIST's own names, in the order of its label ids."""

SEED = 20251022
PRETRAIN_ROWS, TRANSFER_ROWS, VALIDATION_ROWS, TEST_ROWS = 14_000, 8_000, 2_000, 6_000
LABEL_EVERY = 16
"""Every 16th row of `train` keeps its label: 500 of 8,000, and the same share in any prefix of the file."""

NO_LABEL = -1
FEATURES = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASS_NAMES))})


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes, the format of MNIST (http://yann.lecun.com/exdb/mnist).

    Args:
        path (`Path`): e.g. `train-images-idx3-ubyte.gz`.

    Returns:
        `np.ndarray`: uint8, `[rows, 28, 28]` for images, `[rows]` for labels.

    Raises:
        `ValueError`: the file is no IDX file of bytes, or shorter or longer than its header says.
    """
    with gzip.open(path, "rb") as file:
        content = file.read()
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != 8:
        raise ValueError(f"{path} is no IDX file of unsigned bytes (it starts with {content[:4].hex()})")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} should hold {np.prod(shape)} values of shape {shape}, it holds {values.size}")
    return values.reshape(shape)


def encode_png(pixels: np.ndarray) -> bytes:
    """Losslessly compress one greyscale image, uint8 `[height, width]`, about 510 bytes for 28x28."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_split(path: Path, images: np.ndarray, labels: np.ndarray) -> int:
    """Write one Parquet file, whole or not at all.

    Args:
        path (`Path`): where; replaced if it exists.
        images (`np.ndarray`): uint8, `[rows, 28, 28]`.
        labels (`np.ndarray`): `[rows]`, class ids, or `NO_LABEL`.

    Returns:
        `int`: size of the file in bytes.
    """
    encoded = [{"bytes": encode_png(pixels), "path": None} for pixels in images]
    schema = FEATURES.arrow_schema
    table = pa.table(
        [pa.array(encoded, schema.field("image").type), pa.array(labels.tolist(), schema.field("label").type)],
        schema=schema,
    )
    with whole(path) as beside:
        pq.write_table(table, beside, compression="zstd", row_group_size=1_000)
    return path.stat().st_size


def split_rows(train_rows: int, test_rows: int) -> dict[str, np.ndarray]:
    """Choose the rows of every split; no row is in two of them.

    Args:
        train_rows (`int`): rows of the official train file, which `pretrain`, `train` and `validation` come from.
        test_rows (`int`): rows of the official test file, which only `test` comes from.

    Returns:
        `dict[str, np.ndarray]`: split name to row numbers.
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    order = generator.permutation(train_rows)
    pretrain, train, validation, _ = np.split(order, np.cumsum([PRETRAIN_ROWS, TRANSFER_ROWS, VALIDATION_ROWS]))
    test = generator.permutation(test_rows)[:TEST_ROWS]
    return {"pretrain": pretrain, "train": train, "validation": validation, "test": test}


def main(arguments: list[str] | None = None) -> int:
    """Write the four splits and print what each holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four gzipped IDX files")
    parser.add_argument("--output", type=Path, default=HERE / "fashion_mnist", help="folder of the Parquet files")
    parser.add_argument("--label_every", type=int, default=LABEL_EVERY, help="1: all rows of train keep their label")
    options = parser.parse_args(arguments)
    if options.label_every < 1:
        parser.error(f"--label_every must be 1 or more, got {options.label_every}")
    if not (options.source / "train-images-idx3-ubyte.gz").is_file():
        parser.error(f"{options.source} holds no Fashion-MNIST; try `apt-get install dataset-fashion-mnist`")

    files = {
        part: (
            read_idx(options.source / f"{part}-images-idx3-ubyte.gz"),
            read_idx(options.source / f"{part}-labels-idx1-ubyte.gz"),
        )
        for part in ("train", "t10k")
    }
    options.output.mkdir(parents=True, exist_ok=True)
    total = 0
    for split, rows in split_rows(len(files["train"][0]), len(files["t10k"][0])).items():
        images, labels = files["t10k" if split == "test" else "train"]
        kept = labels[rows].astype(np.int64)
        if split == "train":
            kept[np.arange(len(kept)) % options.label_every != 0] = NO_LABEL
        size = write_split(options.output / f"{split}.parquet", images[rows], kept)
        total += size
        print(f"{split:<10} {len(rows):>6} rows, {int((kept != NO_LABEL).sum()):>6} labels, {size / 1e6:6.2f} MB")
    print(f"{'together':<10} {total / 1e6:.2f} MB in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
