"""The shipped land-cover tiles and segmenters: that they are what their README says, without a network."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

from hf_mutual_kd import SegmentationOptions, TransferOptions, dense_log_probs
from hf_mutual_kd.config.recipe import parse_recipe
from hf_mutual_kd.distillation.label_alignment import label_list
from hf_mutual_kd.tasks.semantic_segmentation.heads import head_of

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = RECIPES.parent / "hf_mutual_kd" / "configs"
HERE = RECIPES / "embedded_segmentation"
DATA = HERE / "land_cover"
SPLITS = "pretrain", "train", "validation", "test"
AUTO = {
    "segformer": AutoModelForSemanticSegmentation,
    "mask2former": AutoModelForUniversalSegmentation,
    "upernet": AutoModelForSemanticSegmentation,
}
NAMES = json.loads((DATA / "names.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def splits() -> dict[str, dict[str, np.ndarray]]:
    """Masks `[rows, 64, 64]`, pictures `[rows, 64, 64, 3]`, longitudes and latitudes of every split."""
    found = {}
    for split in SPLITS:
        rows = pq.read_table(DATA / f"{split}.parquet").to_pydict()
        masks = [Image.open(io.BytesIO(one["bytes"])) for one in rows["label"]]
        assert {mask.mode for mask in masks} == {"L"}
        pictures = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in rows["image"]]
        found[split] = {
            "mask": np.stack([np.asarray(mask) for mask in masks]),
            "picture": np.stack(pictures).astype(int),
            "lon": np.array(rows["lon"]),
            "lat": np.array(rows["lat"]),
        }
    return found


def test_files_hold_what_the_readme_says(splits):
    """A remade file of another size would leave the README's numbers, and those of every run, behind."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    for split, rows in splits.items():
        assert f"| `{split}` | {len(rows['mask'])} |" in text
        assert rows["mask"].shape[1:] == (64, 64)
        assert rows["picture"].shape[1:] == (64, 64, 3)


def test_masks_hold_classes_alone(splits):
    """Blended or shifted class numbers look like masks until the metric."""
    assert len(NAMES) == 17
    for split, rows in splits.items():
        assert rows["mask"].max() <= 16
        assert json.loads(pq.read_schema(DATA / f"{split}.parquet").metadata[b"names"]) == NAMES
        present = set(np.unique(rows["mask"]))
        assert present >= set(range(17)) - {NAMES.index("deciduous needleleaf forest")}


def test_masks_lie_on_their_pictures(splits):
    """Masks that are shifted against the pictures still train; water is where the picture is blue."""
    rows = splits["test"]
    blue = rows["picture"][..., 2] - rows["picture"][..., 0] > 15
    water = rows["mask"] == NAMES.index("water")
    agreement = {
        (down, right): (np.roll(water, (down, right), (1, 2)) == blue)[:, 4:-4, 4:-4].mean()
        for down, right in ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3))
    }
    assert max(agreement, key=agreement.get) == (0, 0)
    assert agreement[0, 0] > 0.9


def test_splits_are_disjoint_in_space(splits):
    """A test tile beside or under a training tile measures memory."""
    block = 128
    taken: dict[tuple[int, int], str] = {}
    for split, rows in splits.items():
        left = np.round((rows["lon"] + 180) * 15 - 32).astype(int)
        top = np.round((90 - rows["lat"]) * 15 - 32).astype(int)
        assert (left // block == (left + 63) // block).all()
        assert (top // block == (top + 63) // block).all()
        for cell in set(zip(top // block, left // block, strict=True)):
            assert taken.setdefault(cell, split) == split
        if split in ("validation", "test"):
            assert not (left % 64).any()
            assert not (top % 64).any()
            assert len(set(zip(left, top, strict=True))) == len(left)


def test_files_are_small():
    """A repository that grows by megabytes is slow to clone for everybody, for ever."""
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 5e6
    assert sum(path.stat().st_size for path in (HERE / "peers").rglob("*.*")) < 5e6


@pytest.mark.parametrize("name", AUTO)
def test_peers_load_and_beat_the_majority(name, splits, monkeypatch):
    """A peer that lost its weights, its labels or its processor on the way to disk is a random start."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = HERE / "peers" / name
    model, info = AUTO[name].from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert label_list(model.config) == NAMES
    assert head_of(model, name) == ("query" if name == "mask2former" else "pixel")
    processor = AutoImageProcessor.from_pretrained(folder)
    assert not processor.do_reduce_labels
    rows = splits["validation"]
    images = [Image.fromarray(one.astype(np.uint8)) for one in rows["picture"][::4]]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    assert pixels.shape[2:] == (64, 64)
    with torch.no_grad():
        found = dense_log_probs(model.eval()(pixel_values=pixels), (64, 64)).argmax(1).numpy()
    truth = rows["mask"][::4]
    majority = np.bincount(truth.ravel()).max() / truth.size
    assert (found == truth).mean() > majority + 0.2


@pytest.mark.parametrize("name", AUTO)
def test_peers_hold_no_number_that_is_none(name):
    """One NaN in a shipped weight ends every run that starts from it."""
    with safe_open(HERE / "peers" / name / "model.safetensors", "pt") as weights:
        assert all(weights.get_tensor(key).isfinite().all() for key in weights.keys())  # noqa: SIM118


def test_specialists_know_their_side(splits):
    """Peers that know the same have nothing to teach each other; the README promises that these do not."""
    rows = {key: values[::3] for key, values in splits["test"].items()}
    west = rows["lon"] < 20
    images = [Image.fromarray(one.astype(np.uint8)) for one in rows["picture"]]
    right = {}
    for name in ("segformer", "mask2former"):
        model = AUTO[name].from_pretrained(HERE / "peers" / name).eval()
        pixels = AutoImageProcessor.from_pretrained(HERE / "peers" / name)(images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            answers = [dense_log_probs(model(pixel_values=part), (64, 64)).argmax(1) for part in pixels.split(100)]
        hits = torch.cat(answers).numpy() == rows["mask"]
        right[name] = hits[west].mean(), hits[~west].mean()
    assert right["segformer"][0] > right["mask2former"][0]
    assert right["mask2former"][1] > right["segformer"][1]


def test_data_is_a_dataset_of_images():
    """Masks that are not an image feature are bytes to whoever loads them."""
    rows = Dataset.from_parquet(str(DATA / "validation.parquet"))
    assert rows[0]["image"].mode == "RGB"
    assert rows[0]["label"].mode == "L"
    assert rows.column_names == ["image", "label", "lon", "lat"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("segment_ade20k*.yaml")), ids=lambda path: path.stem)
def test_configurations_for_ade20k_load(path, tmp_path):
    """A shipped file that does not parse is found by its first user."""
    from hf_mutual_kd.config.training_config import MutualKDConfig

    assert path.read_text(encoding="utf-8").startswith("# Not run here:")
    argv = ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu"]
    recipe = parse_recipe(argv, (SegmentationOptions, TransferOptions), lambda: MutualKDConfig)
    assert recipe.options.control is True
    assert recipe.options.label_column == "annotation"
    assert len(recipe.options.peers) >= 2
    assert recipe.config.learning_rate == 1e-6


def test_there_are_configurations_for_ade20k():
    """The test above passes for an empty folder."""
    assert len(list(CONFIGS.glob("segment_ade20k*.yaml"))) >= 3
