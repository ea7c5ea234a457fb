"""Arms of a suite share processed images: each is processed once, and nothing else about a training changes."""

import pytest
import torch
from conftest import SIZE, make_rows, tiny_processor

from hf_mutual_kd import IdentifiedRows, MutualKDConfig, MutualKDTrainer, RoleTaggingCollator
from hf_mutual_kd.experiments import suite_trainer as suite_inputs
from hf_mutual_kd.experiments.suite_trainer import KeepingCollator, KeepingProcessors, SuiteTrainer

PROCESSORS = {"vit": tiny_processor(), "cnx": tiny_processor(), "cnn": tiny_processor(0.2)}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(suite_inputs, "_kept", {})


def assert_equal_batches(left, right):
    assert left.keys() == right.keys()
    assert all(left[key].equal(right[key]) for key in ("labels", "sample_ids", "roles"))
    for name, inputs in left["peer_inputs"].items():
        assert inputs["pixel_values"].equal(right["peer_inputs"][name]["pixel_values"])


def test_batches_are_the_plain_collators_and_images_are_read_once(monkeypatch):
    """Images that come from another row or another processor would train every arm on something else."""
    rows = IdentifiedRows(make_rows(9))
    plain = RoleTaggingCollator(PROCESSORS)
    keeping = KeepingCollator(plain, "rows", PROCESSORS)
    for places in ([0, 3, 5], [5, 1, 0], [8, 7, 6, 5, 4]):
        batch = rows.__getitems__(places)
        assert_equal_batches(keeping(batch), plain(batch))
    shared = keeping(rows.__getitems__([0]))["peer_inputs"]
    assert shared["vit"]["pixel_values"] is shared["cnx"]["pixel_values"]
    monkeypatch.setattr(keeping.processors, "read", None)  # A row that is decoded again fails.
    assert keeping(rows.__getitems__([5, 8]))["labels"].tolist() == [2, 2]


def test_rows_of_another_data_set_are_others():
    """Test images in place of training images with the same numbers would show in no loss."""
    train, test = IdentifiedRows(make_rows(3)), IdentifiedRows(make_rows(3, seed=1))
    plain = RoleTaggingCollator(PROCESSORS)
    KeepingCollator(plain, "train", PROCESSORS)(train.__getitems__([0, 1, 2]))
    batch = test.__getitems__([0, 1, 2])
    assert_equal_batches(KeepingCollator(plain, "test", PROCESSORS)(batch), plain(batch))


def test_beyond_the_limit_rows_are_processed_each_time():
    """A large data set must not fill the memory."""
    rows = IdentifiedRows(make_rows(4)).__getitems__([0, 1, 2, 3])
    kept = {}
    size = 3 * SIZE * SIZE * 4
    processors = KeepingProcessors({"vit": PROCESSORS["vit"]}, "rows", kept, most=2 * size)
    first, again = (processors(rows)["vit"]["pixel_values"] for _ in range(2))
    assert first.equal(again)
    assert len(kept) == 0
    processors(rows[:2])
    assert len(kept) == 2


@pytest.mark.parametrize("augment", [False, True])
def test_training_is_the_plain_trainers(augment, make_cohort, train_rows, eval_rows, tmp_path):
    """An arm that trains on anything else than its recipe says makes the whole suite worthless."""

    def losses(trainer_class, folder):
        args = MutualKDConfig(
            str(tmp_path / folder),
            max_steps=4,
            per_device_train_batch_size=8,
            augment=augment,
            pre_flight=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
        )
        torch.manual_seed(0)
        trainer = trainer_class(make_cohort("vit", "cnx"), args, train_dataset=train_rows, eval_dataset=eval_rows)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    plain = losses(MutualKDTrainer, "plain")
    assert losses(SuiteTrainer, "suite") == plain
    assert bool(suite_inputs._kept) is not augment
    assert losses(SuiteTrainer, "again") == plain
