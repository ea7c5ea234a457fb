"""The classification recipe on tiny peers and rows, as a user starts it."""

from pathlib import Path

import pytest
from conftest import write_place

from hf_mutual_kd import launch

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "vit_classify.py"
FAST = [
    "--max_steps",
    "4",
    "--per_device_train_batch_size",
    "8",
    "--learning_rate",
    "1e-2",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "2",
    "--save_strategy",
    "steps",
    "--save_steps",
    "2",
    "--teacher_rule",
    "best",
    "--use_cpu",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
]


def main(words: list[str]) -> int:
    return launch("image-classification", words)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with saved peers and a saved data set."""
    return write_place(tmp_path_factory.mktemp("place"), train=40, validation=12, test=15)


def argv(place: Path, out: Path, *more: str, peers: tuple[str, ...] = ("vit", "cnx")) -> list[str]:
    chosen = [f"{name}={place / name}" for name in peers]
    fast = list(FAST)
    if {"--teacher_rule", "--teaching", "--preset", "--labels"} & set(more):
        at = fast.index("--teacher_rule")
        del fast[at : at + 2]  # The test says who teaches.
    return ["--peers", *chosen, "--dataset", str(place / "data"), "--output_dir", str(out), *fast, *more]
