"""The shipped CLIP and SigLIP: that they are what their README says, without a network; their recipe."""

import re
from pathlib import Path

import pytest
from datasets import Dataset, Image
from transformers import pipeline

from hf_mutual_kd import MutualKDConfig, RecipeOptions, TransferOptions
from hf_mutual_kd.config.recipe import parse_recipe
from hf_mutual_kd.data.images import decode_image

HERE = Path(__file__).parents[2] / "recipes" / "embedded"
README = (HERE / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    data = Dataset.from_parquet(str(HERE / "fashion_mnist" / "validation.parquet")).select(range(250))
    return data.features["label"].names, data.cast_column("image", Image(decode=False))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_reader_knows_what_its_readme_says(name, rows):
    """Weights that were made anew leave the README's numbers, and those of the guide, behind."""
    names, data = rows
    folder = HERE / "readers" / name
    claimed = float(re.search(rf"\| {name} \(.*?\| ([0-9.]+) % \|", README)[1]) / 100
    classify = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    images = [decode_image(cell) for cell in data["image"][:]]
    found = [one[0]["label"] for one in classify(images, candidate_labels=names)]
    right = sum(guess == names[truth] for guess, truth in zip(found, data["label"][:], strict=True)) / len(found)
    assert abs(right - claimed) < 0.07
    other = {"Trouser": "pants", "Bag": "handbag"}
    renamed = classify(images[:60], candidate_labels=[other.get(one, one) for one in names])
    same = [one[0]["label"] == other.get(guess, guess) for one, guess in zip(renamed, found[:60], strict=True)]
    assert sum(same) > 50


def test_weights_are_small():
    """Megabytes in a repository are fetched by everybody, for ever."""
    sizes = [file.stat().st_size for file in (HERE / "readers").rglob("*.safetensors")]
    assert len(sizes) == 2
    assert sum(sizes) < 3e6


def test_the_recipe_trains_readers_without_labels(tmp_path):
    """A default that needs labels, or another folder, shows something else than its guide tells."""
    words = ["--config", "zero_shot", "--output_dir", str(tmp_path), "--use_cpu"]
    recipe = parse_recipe(words, (RecipeOptions, TransferOptions), lambda: MutualKDConfig)
    assert recipe.config.labels is False
    assert list(recipe.options.peers) == ["clip", "siglip", "resnet"]
    assert all(Path(spec.source).is_dir() for spec in recipe.options.peers.values())
