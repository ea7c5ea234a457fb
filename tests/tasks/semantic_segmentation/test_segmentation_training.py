"""The trainer with maps: exact resume, peers as ordinary folders, two processes as one, and images of mixed sizes."""

import json
from io import BytesIO

import numpy as np
import pytest
import segmentation_run
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from segmentation_run import PEERS, segmentation_cohort, segmentation_rows, segmentation_trainer
from task_run import check_resume
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from two_processes import two

from hf_mutual_kd import Cohort, RoleTable, assign_roles, launch
from hf_mutual_kd.tasks.semantic_segmentation.scores import image_scores
from hf_mutual_kd.training import stages, ways


def test_resume_is_exact(tmp_path):
    """Mask2Former's loss draws random points: an RNG that is not put back gives another run."""
    check_resume(segmentation_trainer, tmp_path, PEERS)
    left, right = (RoleTable.load(tmp_path / run / "roles.parquet", PEERS) for run in "ab")
    assert left.lookup(range(8)).equal(right.lookup(range(8)))


def test_trained_peers_are_ordinary_models(tmp_path):
    """A peer that only this package can load is lost to everybody else."""
    trainer = segmentation_trainer(str(tmp_path), max_steps=2, load_best_model_at_end=True)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "segformer/pACC" in entry)
    assert logged["segformer/taught"] + logged["mask2former/taught"] == pytest.approx(1.0)
    for name, auto in zip(PEERS, (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation), strict=True):
        model, report = auto.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not report["missing_keys"]
        mine = trainer.cohort.peers[name].state_dict()
        assert all(value.equal(mine[key]) for key, value in model.state_dict().items())
    again = Cohort.from_pretrained({name: tmp_path / name for name in PEERS}, task="semantic-segmentation")
    assert again.label_names == trainer.cohort.label_names


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    alone, together = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    segmentation_run.main(str(alone), "4")
    one = json.loads((alone / "outcome.json").read_text())
    return [(alone, one), (together, two(together, script="segmentation_run.py", batch=2))]


def test_two_processes_see_what_one_sees(outcomes):
    """A sample that is scored twice or never, or maps that are gathered in another order, hides behind close means."""
    left, right = (RoleTable.load(folder / "roles.parquet", PEERS) for folder, _ in outcomes)
    assert left.counts() == right.counts()
    assert left.lookup(range(8)).equal(right.lookup(range(8)))
    numbers = [{key: value for key, value in found["metrics"].items() if "/" in key} for _, found in outcomes]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert numbers[0]["test_cohort/samples"] == 5


def test_roles_of_a_run_are_those_of_the_scores(tmp_path):
    """Roles in the table that the scores do not give were mixed up on the way."""
    trainer = segmentation_trainer(str(tmp_path), learning_rate=0.0, augment=False, max_steps=3, batch_norm="freeze")
    trainer.train()
    cohort = segmentation_cohort().eval()
    rows = [{"sample_id": index, **row} for index, row in enumerate(segmentation_rows(8)) if row["label"]]
    for row in rows:
        batch = trainer.eval_collator([row])
        with torch.no_grad():
            log_probs = [answer.log_probs for answer in cohort(batch["peer_inputs"]).outputs.values()]
        expected = assign_roles(image_scores(log_probs, batch["labels"], size=(16, 16)))
        assert trainer.record.role_table.lookup(batch["sample_ids"]).equal(expected)


def test_masks_without_class_names_are_checked_before_training(tmp_path, capsys):
    """A class that no peer has would come to light in the middle of the first epoch."""
    segmentation_cohort().save_pretrained(tmp_path)
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        rows = segmentation_rows(10, seed).to_list()
        if split == "train":
            wrong = BytesIO()
            PILImage.new("L", PILImage.open(BytesIO(rows[7]["image"]["bytes"])).size, 9).save(wrong, "PNG")
            rows[7]["label"] = {"bytes": wrong.getvalue(), "path": None}
        kinds = Features({"image": Image(decode=False), "label": Image(decode=False)})
        Dataset.from_list(rows, features=kinds).to_parquet(tmp_path / "rows" / f"{split}.parquet")
    words = ["--peers", *(f"{name}={tmp_path / name}" for name in PEERS), "--dataset", str(tmp_path / "rows")]
    words += ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    assert launch("semantic-segmentation", words) == 2
    error = capsys.readouterr().err
    assert "train" in error
    assert "row 7" in error
    assert not (tmp_path / "run").exists()


def test_stages_learn_from_images_without_masks(tmp_path, monkeypatch):
    """Stages that only ran on classes would train maps without a control, or choose by nothing."""
    monkeypatch.setattr(ways, "WAYS", {"mean": ways.WAYS["mean"]})
    monkeypatch.setattr(stages, "ALPHAS", (0.5,))
    trainer = segmentation_trainer(str(tmp_path), teaching="auto", max_steps=2)
    trainer.train()
    assert trainer.stages.arms == ["start", "control", "self", "mutual", "kept"]
    facts = json.loads((tmp_path / "stages" / "stages.json").read_text())["facts"]
    assert facts["labelled_share"] == 7 / 8
    for name, kept in facts["kept"].items():
        assert kept["rows"] == 5
        assert np.isfinite([values[name] for values in facts["validation"].values()]).all()
