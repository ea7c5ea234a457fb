"""The shipped saliency peers and configurations: that they are what their README says, without a network."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor

import hf_mutual_kd.tasks.video_saliency.model.auto  # noqa: F401
from hf_mutual_kd import ClipRows, RecipeOptions, SaliencyOptions, TransferOptions, cc, load_videos
from hf_mutual_kd.config.recipe import parse_recipe
from hf_mutual_kd.tasks.video_saliency.collator import ClipCollator, ClipProcessors
from hf_mutual_kd.tasks.video_saliency.data.truth_batches import split_truths
from hf_mutual_kd.tasks.video_saliency.model.losses import resample_log_density

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = RECIPES.parent / "hf_mutual_kd" / "configs"
HERE = RECIPES / "embedded_saliency"
KINDS = {"convnext": "frame_backbone", "videomae": "transformers_video", "swin3d": "torchvision_video"}


def config_of(path, tmp_path):
    from hf_mutual_kd.config.training_config import MutualKDConfig

    argv = ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu"]
    return parse_recipe(argv, (SaliencyOptions, TransferOptions), lambda: MutualKDConfig)


@pytest.fixture(scope="module")
def splits():
    return load_videos(RecipeOptions(dataset=str(HERE / "synthetic_gaze"), max_eval_samples=4), seed=0)


@pytest.fixture(scope="module")
def peers():
    folders = {name: HERE / "peers" / name for name in KINDS}
    return {
        name: (AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder))
        for name, folder in folders.items()
    }


def test_peers_are_of_different_encoders_and_beat_the_centre_prior(splits, peers, monkeypatch):
    """A peer that lost its weights or its processor on the way to disk is a random start."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert {name: model.config.encoder_type for name, (model, _) in peers.items()} == KINDS
    rows, prior = ClipRows(splits.validation, every=12), ClipRows(splits.train).reference
    collator = ClipCollator({name: processor for name, (_, processor) in peers.items()})
    batch = collator([rows[place] for place in range(len(rows))])
    truths = [truth[0].numpy() for truth in split_truths(batch["labels"])]
    floor = sum(cc(prior.prior_at(truth.shape), truth) for truth in truths)
    for name, (model, _) in peers.items():
        with torch.no_grad():
            logits = model(**batch["peer_inputs"][name]).logits[:, 0]
        reached = sum(cc(resample_log_density(one, t.shape).exp(), t) for one, t in zip(logits, truths, strict=True))
        assert reached > floor + 0.08 * len(truths), name


def test_peers_see_clips_of_their_own(peers):
    """Peers of one clip policy have less to teach each other."""
    policies = ClipProcessors({name: processor for name, (_, processor) in peers.items()}).policies
    assert len(set(policies.values())) > 1


def test_files_are_small_and_whole():
    """A repository that grows by megabytes is slow to clone; one NaN in a weight ends every run."""
    files = list((HERE / "peers").rglob("*.*"))
    assert sum(file.stat().st_size for file in files) < 4e6
    assert not [file for file in files if file.suffix == ".py"], "the package brings the code"
    for name in KINDS:
        with safe_open(HERE / "peers" / name / "model.safetensors", "pt") as weights:
            assert all(weights.get_tensor(key).isfinite().all() for key in weights.keys())  # noqa: SIM118


def test_everything_embedded_is_called_synthetic(tmp_path):
    """Numbers on made gaze that look like numbers on people's."""
    for name in KINDS:
        assert "synthetic" in (HERE / "peers" / name / "README.md").read_text("utf-8")
    recipe = config_of(CONFIGS / "embedded_saliency.yaml", tmp_path)
    assert recipe.options.dataset_note.startswith("Synthetic")
    assert "synthetic" in recipe.options.dataset
    assert len(recipe.options.peers) == 3
    assert (recipe.config.teacher_rule, recipe.options.max_labelled_samples) == (None, 12)


@pytest.mark.parametrize("name", ["dhf1k", "hollywood2", "avimos"])
def test_configurations_that_were_not_run_load_and_say_so(name, tmp_path):
    """A shipped file that does not parse is found by its first user."""
    path = CONFIGS / f"saliency_{name}.yaml"
    assert path.read_text(encoding="utf-8").startswith("# Not run here:")
    recipe = config_of(path, tmp_path)
    assert recipe.options.dataset.startswith(f"{name}:")
    assert recipe.options.control is True
    assert len(recipe.options.peers) == 2
