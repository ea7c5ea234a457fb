"""What a run records for its cards."""

import json
import random
import re
from dataclasses import replace

import pytest
import torch
from made_up_run import SHA
from segmentation_peers import CLASSES, tiny_segmenter
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import TASKS
from hf_mutual_kd.data.images import image_file
from hf_mutual_kd.experiments.drawing import printed_by
from hf_mutual_kd.reports.run_facts import (
    base_facts,
    emissions_tracker,
    hardware_facts,
    hyperparameter_facts,
    objective_facts,
    run_snippet,
)


def test_base_facts_of_a_folder(tmp_path):
    """A licence or citation that the card of the start has and ours does not."""
    bibtex = "@article{a,\n  title={{A} b}\n}"
    (tmp_path / "README.md").write_text(
        f"---\nlicense: other\nlicense_name: my\ntags: [vision, 3]\n---\n# x\n```bibtex\n{bibtex}\n```\n",
        encoding="utf-8",
    )
    facts = base_facts(str(tmp_path))
    assert facts == {"license": "other", "license_name": "my", "tags": ["vision"], "citation": bibtex}
    assert base_facts(str(tmp_path / "missing")) == {}
    (tmp_path / "README.md").write_text("---\na: [\n---\n", encoding="utf-8")
    assert base_facts(str(tmp_path)) == {}


def test_base_facts_from_the_cache_without_network(tmp_path, monkeypatch):
    """A run without network that loses the licence of a cached model."""
    snapshot = tmp_path / "models--someone--vit" / "snapshots" / SHA["vit"]
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert base_facts("someone/vit", SHA["vit"]) == {"license": "mit"}
    assert base_facts("someone/cnn", SHA["cnn"]) == {}


def test_run_snippet_prints_what_the_saved_peer_says(make_cohort, tmp_path):
    """An output in the card that no run of the snippet gave; a model that draws random numbers when it is loaded."""
    from PIL import Image

    cohort, words = make_cohort("vit"), TASKS["image-classification"].words
    cohort.save_pretrained(tmp_path)
    before = random.getstate(), torch.get_rng_state().tolist()
    printed = run_snippet(tmp_path / "vit", image_file({"image": Image.new("RGB", (20, 20), "red")}, tmp_path), words)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before
    assert re.fullmatch(r"(?:(?:circle|square|stripe): 0\.\d{3}\n?){3}", printed)
    (tmp_path / "plain").mkdir()
    assert run_snippet(tmp_path / "plain", "'x.png'", words) is None
    assert run_snippet(tmp_path / "vit", "'x.png'", replace(words, snippet="")) is None


def test_a_snippet_that_fails_here_ends_no_run(make_cohort, tmp_path):
    """A run that ends after its training, before results are written, as half a decoder is installed."""
    make_cohort("vit").save_pretrained(tmp_path)
    assert printed_by(tmp_path / "vit", "'no such file'", TASKS["image-classification"]()) is None


@pytest.mark.parametrize("head", ["segformer", "mask2former"])
def test_the_snippet_of_a_segmentation_model_fits_its_head(tmp_path, head):
    """A card whose code fails on every model with queries, or shows panoptic segments."""
    from PIL import Image

    sizes = {"segformer": {"height": 64, "width": 64}, "mask2former": {"shortest_edge": 64, "longest_edge": 64}}
    kinds = {"segformer": SegformerImageProcessor, "mask2former": Mask2FormerImageProcessor}
    tiny_segmenter(head).save_pretrained(tmp_path)
    kinds[head](size=sizes[head]).save_pretrained(tmp_path)
    image = image_file({"image": Image.new("RGB", (60, 40), "red")}, tmp_path)
    printed = run_snippet(tmp_path, image, TASKS["semantic-segmentation"].words)
    shares = [re.fullmatch(r"(\w+): (\d+\.\d)% of the pixels", line) for line in printed.splitlines()]
    assert all(share[1] in CLASSES for share in shares)
    assert sum(float(share[2]) for share in shares) == pytest.approx(100, abs=0.2)


def test_facts_describe_themselves(tmp_path):
    """Secrets, paths or values that JSON cannot hold in the record."""
    from hf_mutual_kd.config.training_config import MutualKDConfig
    from hf_mutual_kd.distillation.objective import Objective

    config = MutualKDConfig(str(tmp_path), learning_rate=3e-4, hub_token="hf_secret", use_cpu=True)
    facts = hyperparameter_facts({"learning_rate": 3e-4, "seed": 42, "output_dir": str(tmp_path)}, config)
    assert facts["changed"] == {"learning_rate": 3e-4}
    assert facts["defaults"]["seed"] == 42
    assert not re.search(f"hf_secret|{tmp_path}", json.dumps(facts))
    assert json.loads(json.dumps(objective_facts(Objective.from_options(config))))["rule"]["name"] == "best"
    assert hardware_facts(2)["processes"] == 2


def test_without_codecarbon_nothing_is_measured(monkeypatch):
    """A run that stops because an extra is not installed."""
    monkeypatch.setitem(__import__("sys").modules, "codecarbon", None)
    with emissions_tracker() as tracker:
        assert tracker is None
