"""What classifiers record of single samples: joined by sample, and never right without a label."""

import numpy as np
import pytest
from made_up_report import recorded

from hf_mutual_kd.reports.predictions import predictions_of, single_outputs
from hf_mutual_kd.reports.samples import SampleRecorder, read_samples, write_samples


def batch(ids, labels, guess, confidence, loss):
    top5 = np.array(guess)[:, :, None]
    return single_outputs(
        {
            "sample_ids": np.array(ids),
            "labels": np.array(labels),
            "top5": top5,
            "confidence": np.array(confidence),
            "loss": np.array(loss),
        }
    )


def joined(folder, start, after):
    write_samples(folder / "p", ["vit"], start.joined(), after.joined(), {})
    return predictions_of(read_samples(folder / "p", ["vit"]))


def test_start_and_after_are_joined_by_sample_in_any_order(tmp_path):
    """Outputs of different samples side by side, where batches came in another order."""
    start, after = SampleRecorder(), SampleRecorder()
    start.add(**batch([5, 2, 9], [1, 0, 1], [[1], [1], [0]], [[0.9], [0.6], [0.7]], [[0.1], [1.0], [1.2]]))
    after.add(**batch([9], [1], [[1]], [[0.8]], [[np.log(2)]]))
    after.add(**batch([5, 7], [1, 1], [[0], [1]], [[0.5], [0.5]], [[0.7], [0.7]]))
    found = joined(tmp_path, start, after)
    assert found.ids.tolist() == [5, 9]
    assert found.start.guess[:, 0].tolist() == [1, 0]
    assert found.after.guess[:, 0].tolist() == [0, 1]
    assert found.after.truth[1, 0] == pytest.approx(0.5)
    assert found.flips()[:, 0].tolist() == [-1, 1]


def test_samples_without_a_label_are_never_right_and_never_flip(tmp_path):
    """A class -1 that counts as predicted and right."""
    start, after = SampleRecorder(), SampleRecorder()
    for one, guess in ((start, 0), (after, -1)):
        one.add(**batch([1], [-1], [[guess]], [[np.nan]], [[np.nan]]))
    found = joined(tmp_path, start, after)
    assert not found.right("after").any()
    assert not found.flips().any()
    assert np.isnan(found.start.truth).all()


def test_every_sample_adds_what_the_metrics_are_made_of():
    """An interval of another accuracy than the one that is printed."""
    right = np.array([[1, 0], [1, 1], [0, 0]], bool)
    found = recorded(right, np.array([0, 1, 2]), 3, 0.9)
    assert found["unit/id"].tolist() == [0, 1, 2]
    assert found["unit/sums"].shape == (3, 3, 6)
    totals = found["unit/sums"].sum(0)
    assert (totals[:, 0] / totals[:, 3]).tolist() == pytest.approx([2 / 3, 1 / 3, 2 / 3])
    loss = -np.log(np.where(right, 0.9, 0.1)).mean(0)
    assert (totals[:2, 2] / totals[:2, 5]).tolist() == pytest.approx(loss.tolist())
    assert totals[2, 4:].tolist() == [0, 0]
