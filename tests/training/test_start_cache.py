"""Outputs of the frozen starts, kept by sample."""

import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS
from saliency_run import gaze_videos, saliency_cohort
from segmentation_run import segmentation_cohort, segmentation_rows
from task_run import SETTINGS, config_of
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset

from hf_mutual_kd import (
    AllRule,
    BestRule,
    ClipRows,
    ConfigError,
    FrozenSource,
    LiveSource,
    MeanRule,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    RoleTaggingCollator,
    SharedView,
    identified,
)
from hf_mutual_kd.training import shared_starts, start_cache
from hf_mutual_kd.training.shared_starts import shared_or_new
from hf_mutual_kd.training.start_cache import LARGEST, StartCache


class Rows:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_obstacles_are_said():
    """A cache for inputs that change holds every student to another picture."""
    frozen, view, clips = Objective(MeanRule(), FrozenSource()), SharedView(), ClipRows(gaze_videos(2, "train"))

    def said(rows, view, **changes):
        return start_cache.obstacle(MutualKDConfig("x", use_cpu=True, **changes), rows, view, frozen)

    assert said(Rows(10), None) is said(Rows(10), view, cached_views=2) is said(clips, None, cached_views=2) is None
    assert "stream" in said(Stream(), None)
    assert "augment=false, cached_views=K" in said(Rows(10), view)
    assert "draws other frames" in said(clips, None)
    with pytest.raises(ConfigError, match="cached_views: cached_views is for views that change: leave it out"):
        said(Rows(10), None, cached_views=2)
    with pytest.raises(ConfigError, match="cache_frozen: outputs for one random view do not fit"):
        said(Rows(10), view, cache_frozen=True)
    live = Objective(AllRule(), LiveSource(), retain=False)
    with pytest.raises(ConfigError, match="nobody asks for here"):
        start_cache.obstacle(MutualKDConfig("x", use_cpu=True, cached_views=2), Rows(10), view, live)


def test_memory_has_a_limit_that_is_said(make_cohort, train_rows):
    """Maps of every sample would fill the memory after hours."""
    cohort = make_cohort("vit", "cnx")
    cohort.set_objective(Objective(BestRule(), LiveSource()))
    batch = RoleTaggingCollator(cohort.processors)([identified(train_rows)[0]])
    row, cpu = 2 * len(LABELS) * 4, Accelerator(cpu=True)
    assert StartCache.too_large(batch, LARGEST // row, cohort, cpu) is None
    assert "it would take 2.1 GB of memory" in StartCache.too_large(batch, LARGEST // row + 1, cohort, cpu)


@pytest.mark.parametrize("shuffle", [False, True])
def test_cache_gives_what_the_starts_say(make_cohort, train_rows, shuffle):
    """A cache filled in the order of batches instead of samples mixes them up."""
    cohort = make_cohort("vit", "cnn").eval()
    cohort.set_objective(Objective(BestRule(), LiveSource()))
    rows, collator = identified(train_rows), RoleTaggingCollator(cohort.processors)
    loader = DataLoader(rows, batch_size=7, shuffle=shuffle, collate_fn=collator)
    cache = StartCache.fill(cohort, loader, len(rows), Accelerator(cpu=True))
    batch = collator([rows[index] for index in (40, 3, 40, 11)])
    found = cache.lookup(batch["sample_ids"])
    assert_close(found, cohort.start_logits(batch["peer_inputs"]), rtol=1e-5, atol=1e-5)
    assert not any(one.requires_grad for one in found)


TASKS = {
    "segmentation": (segmentation_cohort, lambda: segmentation_rows(8)),
    "saliency": (saliency_cohort, lambda: ClipRows(gaze_videos(6, "train", blank=3))),
}


def trainer_of(task, folder, **changes):
    cohort, rows = TASKS[task]
    settings = {"eval_strategy": "no", "save_strategy": "no", "batch_norm": "freeze", "teacher_source": "frozen"}
    settings |= {"max_steps": 1, "augment": False} | ({"crop_size": 64} if task == "segmentation" else {})
    torch.manual_seed(0)
    made = cohort()
    return MutualKDTrainer(made, config_of(made, folder, **SETTINGS | settings | changes), train_dataset=rows())


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("segmentation", {"augment": True, "cached_views": 2}),
        ("segmentation", {"granularity": "pixel", "teacher_rule": "gated"}),
        ("saliency", {"augment": True, "cached_views": 2, "teacher_rule": "mean"}),
    ],
)
def test_maps_in_8_bits_teach_as_starts_that_run(task, shown, tmp_path):
    """Maps of another view, frame, grid or row are another method under the same name."""
    trainer = trainer_of(task, tmp_path, **shown)
    cohort = trainer.cohort.eval()
    with torch.no_grad():
        for parameter in cohort.starts.parameters():
            parameter.mul_(1.5 if task == "saliency" else 4)
    starts = cohort.starts
    cache = shared_or_new(trainer)
    assert cohort.starts is None
    for epoch in (3, 0):
        shown_epoch = epoch % (trainer.args.cached_views or 1)
        trainer.data_collator.set_epoch(shown_epoch)
        trainer.train_dataset.set_epoch(shown_epoch)
        batch = trainer.data_collator([trainer.train_dataset[place] for place in (4, 0, 5)])
        cohort.starts = starts
        run = cohort(**batch)
        cohort.starts = None
        kept = cohort(**batch, start_logits=cache.lookup(batch["sample_ids"], epoch))
        assert torch.equal(kept.teacher, run.teacher)
        assert_close(kept.transfer, run.transfer, rtol=0.01, atol=2e-4)
        assert run.transfer.sum() > 0.02


def test_views_come_again(tmp_path, train_rows, make_cohort):
    """A cache of two views beside a third one holds every student to another picture."""
    settings = SETTINGS | {"cached_views": 2, "teacher_source": "frozen", "eval_strategy": "no"}
    args = MutualKDConfig(str(tmp_path), **settings)
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, train_dataset=train_rows)
    trainer.cohort.eval()
    cache = shared_or_new(trainer)
    assert trainer.cohort.starts is None
    trainer.cohort.set_objective(trainer.objective)
    batches = []
    for epoch in (0, 1, 2):
        trainer.data_collator.set_epoch(epoch % 2)
        batches.append(trainer.data_collator([trainer.train_dataset[index] for index in (5, 0)]))
        expected = trainer.cohort.start_logits(batches[-1]["peer_inputs"])
        assert_close(cache.lookup(batches[-1]["sample_ids"], epoch), expected, rtol=1e-5, atol=1e-5)
    pixels = [batch["peer_inputs"]["vit"]["pixel_values"] for batch in batches]
    assert torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], pixels[1])


def test_what_cannot_be_kept_is_said(tmp_path, monkeypatch, caplog, train_rows, make_cohort):
    """A cache that is silently none is paid for in every step."""
    monkeypatch.setattr(start_cache, "LARGEST", 1000)
    trainer = trainer_of("segmentation", tmp_path / "a")
    assert shared_or_new(trainer) is None
    assert "it would take 20.5 kB of memory (8 views of rows, of peers 5 x 16 x 16, 5 x 16 x 16" in caplog.text
    assert shared_or_new(trainer_of("segmentation", tmp_path / "b", cache_frozen=True)) is not None
    views = {"augment": True, "cached_views": 2}
    with pytest.raises(ConfigError, match="cached_views: it would take"):
        shared_or_new(trainer_of("segmentation", tmp_path / "c", **views))
    with pytest.raises(ConfigError, match="temporal_weight shows neighbouring frames"):
        shared_or_new(trainer_of("saliency", tmp_path / "d", temporal_weight=1.0, **views))
    with pytest.raises(ConfigError, match="cache_frozen: every epoch draws other frames"):
        shared_or_new(trainer_of("saliency", tmp_path / "e", cache_frozen=True))
    with pytest.raises(ConfigError, match="cache_frozen: images differ in size"):
        shared_or_new(trainer_of("segmentation", tmp_path / "g", cache_frozen=True, transfer_grid="label"))


def test_loaders_of_other_rows_are_others(tmp_path, train_rows, eval_rows, make_cohort):
    """Where workers persist the Trainer keeps one loader for all: a cache of validation rows, or a test on them."""
    settings = SETTINGS | {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    args = MutualKDConfig(str(tmp_path), **settings)
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, train_dataset=train_rows, eval_dataset=eval_rows)
    found = [trainer.get_eval_dataloader(rows).dataset for rows in (None, trainer.train_dataset)]
    assert [len(rows) for rows in found] == [len(eval_rows), len(train_rows)]


def test_trainings_share_what_the_same_starts_say(tmp_path, train_rows, make_cohort, monkeypatch):
    """What other weights, rows, classes or processors have said teaches, and no number shows it."""
    fills, fill = [], StartCache.fill
    monkeypatch.setattr(StartCache, "fill", lambda *given, **more: fills.append(given) or fill(*given, **more))

    def cached(change=lambda cohort: None, rows=train_rows, **options):
        cohort = make_cohort("vit", "cnx")
        change(cohort)
        settings = {"eval_strategy": "no", "save_strategy": "no", "teacher_source": "frozen", "augment": False}
        trainer = MutualKDTrainer(cohort, MutualKDConfig(str(tmp_path / "run"), **SETTINGS | settings | options), rows)
        trainer.shared_starts = tmp_path / "starts"
        found = shared_or_new(trainer)
        assert found is None or cohort.starts is None
        return found, len(fills)

    def larger(cohort):
        with torch.no_grad():
            cohort.peers["cnx"].classifier.weight.mul_(2)

    def darker(cohort):
        cohort.processors["vit"].image_mean = [0.1] * 3

    ids = torch.tensor([30, 2])
    (first, _), (again, count) = cached(), cached(seed=3, teacher_rule="mean", temperature=2.0)
    assert count == 1
    assert_close(again.lookup(ids), first.lookup(ids), rtol=0, atol=0)
    assert [cached(larger)[1], cached(darker)[1], cached(rows=train_rows.select(range(40)))[1]] == [2, 3, 4]
    assert cached(augment=True) == (None, 4)
    assert cached(augment=True, cached_views=2)[1] == 5
    assert len(list((tmp_path / "starts").iterdir())) == 4
    monkeypatch.setattr(shared_starts, "MOST", 10)
    assert cached(larger, train_rows.select(range(30)))[1] == 6
    assert len(list((tmp_path / "starts").iterdir())) == 4
