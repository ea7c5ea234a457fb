"""Outputs of the frozen starts, kept by sample."""

import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS
from torch.utils.data import DataLoader, IterableDataset

from hf_mutual_kd import BestRule, LiveSource, Objective, RoleTaggingCollator, SharedView, identified
from hf_mutual_kd.training.start_cache import LARGEST, StartCache


class Rows:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_obstacles_are_said(make_cohort):
    """A cache for inputs that change holds every student to another picture."""
    cohort = make_cohort("vit", "cnx")
    row = 2 * len(LABELS) * 4
    assert StartCache.obstacle(Rows(10), None, cohort) is None
    assert "stream" in StartCache.obstacle(Stream(), None, cohort, asked=True)
    assert "augment=false" in StartCache.obstacle(Rows(10), SharedView(), cohort, asked=True)
    assert StartCache.obstacle(Rows(LARGEST // row), None, cohort) is None
    assert "2.0 GiB" in StartCache.obstacle(Rows(LARGEST // row + 1), None, cohort)
    assert StartCache.obstacle(Rows(LARGEST // row + 1), None, cohort, asked=True) is None


@pytest.mark.parametrize("shuffle", [False, True])
def test_cache_gives_what_the_starts_say(make_cohort, train_rows, shuffle):
    """A cache filled in the order of batches instead of samples mixes them up."""
    cohort = make_cohort("vit", "cnn").eval()
    cohort.set_objective(Objective(BestRule(), LiveSource()))
    rows, collator = identified(train_rows), RoleTaggingCollator(cohort.processors)
    loader = DataLoader(rows, batch_size=7, shuffle=shuffle, collate_fn=collator)
    cache = StartCache.fill(cohort, loader, len(rows), Accelerator(cpu=True))
    assert cache.logits.shape == (len(rows), 2, len(LABELS))
    batch = collator([rows[index] for index in (40, 3, 40, 11)])
    expected = torch.stack(cohort.start_logits(batch["peer_inputs"]), 1)
    torch.testing.assert_close(cache.lookup(batch["sample_ids"]), expected, rtol=1e-5, atol=1e-5)
    assert not cache.logits.requires_grad
