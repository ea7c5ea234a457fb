"""Recorded predictions: joined by sample, bounded, and refused where they do not fit."""

import numpy as np
import pytest
from made_up_report import recorder

from hf_mutual_kd.errors import OutputFolderError
from hf_mutual_kd.reports import predictions as module
from hf_mutual_kd.reports.predictions import PredictionRecorder, read_predictions, write_predictions


def batch(ids, labels, guess, confidence, loss):
    return {"sample_ids": np.array(ids), "labels": np.array(labels), "top5": np.array(guess)[:, :, None],
            "confidence": np.array(confidence), "loss": np.array(loss)}  # fmt: skip


def test_start_and_after_are_joined_by_sample_in_any_order(tmp_path):
    """Beliefs of different samples side by side, where batches came in another order."""
    start, after = PredictionRecorder(), PredictionRecorder()
    start.add(batch([5, 2, 9], [1, 0, 1], [[1], [1], [0]], [[0.9], [0.6], [0.7]], [[0.1], [1.0], [1.2]]))
    after.add(batch([9], [1], [[1]], [[0.8]], [[np.log(2)]]))
    after.add(batch([5, 7], [1, 1], [[0], [1]], [[0.5], [0.5]], [[0.7], [0.7]]))
    assert write_predictions(tmp_path / "p.parquet", ["vit"], start, after)
    found = read_predictions(tmp_path / "p.parquet", ["vit"])
    assert found.ids.tolist() == [5, 9]
    assert found.start.guess[:, 0].tolist() == [1, 0]
    assert found.after.guess[:, 0].tolist() == [0, 1]
    assert found.after.truth[1, 0] == pytest.approx(0.5)
    assert found.flips()[:, 0].tolist() == [-1, 1]


def test_samples_without_a_label_are_never_right_and_never_flip(tmp_path):
    """A class -1 that counts as predicted and right."""
    start, after = PredictionRecorder(), PredictionRecorder()
    for one, guess in ((start, 0), (after, -1)):
        one.add(batch([1], [-1], [[guess]], [[np.nan]], [[np.nan]]))
    write_predictions(tmp_path / "p.parquet", ["vit"], start, after)
    found = read_predictions(tmp_path / "p.parquet", ["vit"])
    assert not found.right("after").any()
    assert not found.flips().any()
    assert np.isnan(found.start.truth).all()


def test_a_large_split_is_cut(tmp_path, monkeypatch):
    """A file, and memory, that grow with the data set."""
    monkeypatch.setattr(module, "MOST_ROWS", 5)
    labels = np.arange(4) % 2
    made = recorder(np.ones((4, 1), bool), labels, 2, 0.9)
    made.add(batch([10, 11], [0, 0], [[0], [0]], [[0.9], [0.9]], [[0.1], [0.1]]))
    made.add(batch([12], [0], [[0]], [[0.9]], [[0.1]]))
    assert made.rows == 5
    assert made.joined()[0].tolist() == [0, 1, 2, 3, 10]


def test_nothing_recorded_leaves_no_file(tmp_path):
    """An empty file that a report takes for predictions."""
    assert not write_predictions(tmp_path / "p.parquet", ["vit"], None, PredictionRecorder())
    assert not write_predictions(tmp_path / "p.parquet", ["vit"], PredictionRecorder(), PredictionRecorder())
    assert read_predictions(tmp_path / "p.parquet", ["vit"]) is None


def test_a_damaged_file_or_other_peers_are_named(tmp_path):
    """A traceback, or one peer's beliefs under another's name."""
    path = tmp_path / "p.parquet"
    made = recorder(np.ones((4, 1), bool), np.arange(4) % 2, 2, 0.9)
    write_predictions(path, ["vit"], made, made)
    with pytest.raises(OutputFolderError, match="p.parquet is damaged"):
        read_predictions(path, ["cnn"])
    path.write_text("no parquet")
    with pytest.raises(OutputFolderError, match="p.parquet is damaged"):
        read_predictions(path, ["vit"])
