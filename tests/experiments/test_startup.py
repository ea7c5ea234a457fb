"""What happens between a command and its first step happens once, and is counted as the training does."""

import atexit
import contextlib
import gc
import subprocess
import sys
from types import SimpleNamespace

import torch
from conftest import write_place
from datasets import Dataset

from hf_mutual_kd import Experiment, MutualKDConfig, PeerSpec
from hf_mutual_kd.experiments.plan import evaluations_of, steps_of
from hf_mutual_kd.experiments.program import first_import
from hf_mutual_kd.peers.weights_hash import fingerprints, joint
from hf_mutual_kd.tasks.image_classification.options import ImageOptions
from hf_mutual_kd.training import trainer as training
from hf_mutual_kd.training.stages import Stages


def test_the_first_training_takes_the_checked_cohort(tmp_path, monkeypatch):
    """Peers would be loaded twice, or those that were checked would draw other numbers than ones loaded anew."""
    place = write_place(tmp_path, train=12, validation=6, test=6)
    config = MutualKDConfig(str(tmp_path / "run"), max_steps=1, teacher_rule="best", use_cpu=True, report_to=[])
    peers = {name: PeerSpec(str(place / name)) for name in ("vit", "cnx")}
    options = ImageOptions(peers=peers, dataset=str(place / "data"), label_alignment="new_head")
    experiment = Experiment("image-classification", options, config=config)
    specs, splits, cohort, objective = experiment._ready()
    torch.rand(3)
    drawn = []

    def draw(*args, **kwargs):
        drawn.append(torch.rand(4))
        return objective_for(*args, **kwargs)

    objective_for = training.objective_for
    monkeypatch.setattr(training, "objective_for", draw)
    first, second = (experiment._trainer(config, specs, splits) for _ in range(2))
    assert first.given_cohort is cohort
    assert second.given_cohort is not cohort
    torch.testing.assert_close(second.given_cohort.state_dict(), cohort.state_dict(), rtol=0, atol=0)
    assert torch.equal(*drawn)
    looked = []
    monkeypatch.setattr(training, "look_at_rows", lambda *given: looked.append(given))
    first.train()
    assert not looked


def test_a_plan_counts_the_epochs_of_a_labelled_share(tmp_path):
    """Epochs that show more than their rows are planned too short, and evaluations too many."""
    rows = Dataset.from_dict({"label": [0, 1] + [-1] * 30})
    splits = SimpleNamespace(train=rows, validation=range(4), test=range(4))
    config = MutualKDConfig(
        str(tmp_path),
        num_train_epochs=2,
        eval_strategy="epoch",
        per_device_train_batch_size=4,
        labelled_share=0.5,
        use_cpu=True,
    )
    # 30 rows without a label, two in each step.
    assert (steps_of(config, splits), evaluations_of(config, splits)) == (30, 2)
    config.max_steps = 30
    assert evaluations_of(config, splits) == 2
    config.labelled_share = None
    assert evaluations_of(config, splits) == 30 / 8


def test_stages_that_begin_where_the_run_did_have_its_fingerprint(tmp_path, monkeypatch):
    """Another one would keep a stage from being resumed; that of earlier weights would let others be resumed."""
    place = write_place(tmp_path, train=12, validation=6, test=6)
    config = MutualKDConfig(str(tmp_path / "run"), max_steps=1, teaching="auto", use_cpu=True, report_to=[])
    options = ImageOptions(peers={name: PeerSpec(str(place / name)) for name in ("vit", "cnx")})
    options.dataset = str(place / "data")
    experiment = Experiment("image-classification", options, config=config)
    specs, splits, cohort, _ = experiment._ready()
    begins, own = joint(fingerprints(cohort)), Stages._stage_trainer
    found = []

    def made(self, *given):
        trainer = own(self, *given)
        found.append((trainer.start_fingerprint, joint(fingerprints(self.cohort))))
        return trainer

    monkeypatch.setattr(Stages, "_stage_trainer", made)
    experiment._trainer(config, specs, splits).train()
    assert len(found) > 1
    assert set(found) == {(begins, begins)}


def test_what_is_imported_once_is_left_out_of_collections(monkeypatch):
    """Frozen at every call, whatever a process has let go of by then is never given back."""
    enabled_at_freeze: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: enabled_at_freeze.append(gc.isenabled()))
    monkeypatch.setattr(atexit, "register", lambda _: None)
    with first_import("hf_mutual_kd.experiments.launch"):
        assert gc.isenabled()
    assert enabled_at_freeze == []
    with contextlib.suppress(ImportError), first_import("no_such_module"):
        assert not gc.isenabled()
        raise ImportError
    assert enabled_at_freeze == [False]
    assert gc.isenabled()


def test_a_process_that_has_imported_everything_ends_without_a_word():
    """What the collector leaves out is called a leak by libraries as the process ends, in hundreds of lines."""
    code = "from hf_mutual_kd.experiments import launch; launch.load_config_class(); launch.load_experiment_class()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "leaked" not in done.stderr
