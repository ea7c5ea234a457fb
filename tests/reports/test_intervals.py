"""Intervals of differences over rows and seeds, by hand and on simulated trainings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_mutual_kd import SegmentationScores
from hf_mutual_kd.reports.intervals import difference_interval, means, overlaps, pseudo_values
from hf_mutual_kd.tasks.semantic_segmentation.metrics import confusion_matrix


def as_sums(values):
    """Values of rows `[U]` as their sums and counts `[U, 2]`."""
    return np.stack([values, np.ones_like(values)], axis=1)


def test_one_seed_is_the_bootstrap_over_rows():
    """Prevents an interval that is not of the difference: of 100 rows 30 are gained and 10 lost, se 0.06."""
    before = np.repeat([0.0, 1.0, 1.0], [30, 10, 60])
    after = np.repeat([1.0, 0.0, 1.0], [30, 10, 60])
    mean, low, high = difference_interval([as_sums(after)], [as_sums(before)], means)
    spread = np.sqrt((0.4 - 0.2**2) / 100)
    assert mean == pytest.approx(0.2)
    assert (low, high) == (
        pytest.approx(0.2 - 1.96 * spread, abs=0.012),
        pytest.approx(0.2 + 1.96 * spread, abs=0.012),
    )


def test_seeds_that_differ_alone_are_a_t_interval():
    """Prevents that three seeds look surer than they are: where rows say nothing, it is Student's, 4.30 sd / √3."""
    before = [as_sums(np.zeros(50))] * 3
    after = [as_sums(np.full(50, value)) for value in (0.1, 0.2, 0.3)]
    mean, low, high = difference_interval(after, before, means, draws=20_000)
    assert mean == pytest.approx(0.2)
    assert [low[0], high[0]] == pytest.approx([0.2 - 0.2484, 0.2 + 0.2484], abs=0.02)


def test_equal_seeds_are_as_wide_as_one():
    """Prevents that trainings which do not differ narrow what the choice of test rows leaves open."""
    rows = np.random.default_rng(1).integers(-1, 2, 200).astype(float)
    one = difference_interval([as_sums(rows)], [as_sums(rows * 0)], means)
    three = difference_interval([as_sums(rows)] * 3, [as_sums(rows * 0)] * 3, means)
    assert np.allclose(one, three)


@pytest.mark.parametrize(
    ("seeds", "row", "seed", "both"), [(1, 1.0, 0.0, 0.0), (3, 1.0, 0.0, 1.0), (3, 0.3, 0.1, 0.5), (5, 1.0, 0.1, 1.0)]
)
def test_coverage_on_simulated_trainings(seeds, row, seed, both):
    """Prevents a 95 % interval that misses the truth more often, or one so wide that it says nothing."""
    generator, rows, trials = np.random.default_rng(0), 100, 250
    covered, width = 0, []
    for _ in range(trials):
        values = (
            row * generator.standard_normal((1, rows))
            + seed * generator.standard_normal((seeds, 1))
            + both * generator.standard_normal((seeds, rows))
        )
        after = [as_sums(one) for one in values]
        _, low, high = difference_interval(after, [as_sums(one * 0) for one in values], means, draws=300)
        covered += int(low[0] <= 0 <= high[0])
        width.append(high[0] - low[0])
    assert covered / trials >= 0.92
    truth = np.sqrt((row**2 + both**2 / seeds) / rows + seed**2 / seeds)
    assert np.median(width) < (2 * 1.96 * truth) * (1.25 if seed == 0 else 2.5)


def test_overlaps_are_those_of_the_metric():
    """Prevents an interval of another mIoU than the one that is printed: absent classes, ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    guesses = torch.randint(0, 5, (6, 8, 8), generator=generator)
    truths = torch.randint(0, 4, (6, 8, 8), generator=generator)
    matrices = [confusion_matrix(a, b, 5, 255) for a, b in zip(guesses, truths, strict=True)]
    totals = sum(np.stack([one.diagonal().numpy(), one.sum(0).numpy(), one.sum(1).numpy()]) for one in matrices)
    scores = SegmentationScores(5).compute(predictions=list(guesses), references=list(truths))
    assert overlaps(totals) == pytest.approx([scores[key] for key in ("mIoU", "fwIoU", "mACC", "pACC")])


def test_what_was_not_measured_has_no_interval():
    """Prevents a number where the ensemble has no loss: nothing was added, so that there is nothing to say."""
    nothing = [np.zeros((10, 2))]
    assert np.isnan(difference_interval(nothing, nothing, means, draws=10)).all()


def test_pseudo_values_of_a_mean_are_its_rows():
    """Prevents that another margin than that of the rows' own values decides what is kept of classifiers."""
    rows = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    assert pseudo_values(as_sums(rows), means)[:, 0] == pytest.approx(rows, abs=1e-9)
    assert pseudo_values(as_sums(rows[:1]), means).tolist() == [[rows[0]]]


def test_pseudo_values_tell_how_sure_a_miou_is():
    """Prevents a margin that is not the metric's: of 80 images with three classes, one rare, against the bootstrap."""
    generator = np.random.default_rng(0)
    true = generator.multinomial(64, [0.6, 0.35, 0.05], size=80)
    sums = []
    for skill in (0.9, 0.7):
        right = generator.binomial(true, skill)
        predicted = right + np.stack([generator.multinomial(left, [1 / 3] * 3) for left in (true - right).sum(1)])
        sums.append(np.stack([right, predicted, true], axis=1))
    mean, low, high = (part[0] for part in difference_interval([sums[0]], [sums[1]], overlaps, draws=4000))
    difference = (pseudo_values(sums[0], overlaps) - pseudo_values(sums[1], overlaps))[:, 0]
    assert difference.mean() == pytest.approx(mean, abs=0.005)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert 2 * 1.96 * error == pytest.approx(high - low, rel=0.1)
