"""One short line per log, for any name of peers and data sets."""

import io
import sys
from types import SimpleNamespace

import pytest

from hf_mutual_kd import TASKS
from hf_mutual_kd.training.progress import CohortProgress

PEERS = ("vit", "cnn_s")


@pytest.fixture
def progress():
    return CohortProgress(PEERS, TASKS["image-classification"].words, "accuracy")


def test_line_of_a_training_log(progress):
    """A dictionary of forty numbers tears the bar and is read by nobody."""
    logs = {"loss": 2.3104, "learning_rate": 1e-3}
    for name, value in zip(PEERS, (0.812, 0.799), strict=True):
        logs |= {f"{name}/accuracy": value, f"{name}/taught": value / 2, f"{name}/transfer": 1.0}
    said = progress.line(40, logs)
    assert said == "step 40 · loss 2.310 · vit 81.2 % taught 40.6 % · cnn_s 79.9 % taught 40.0 %"


@pytest.mark.parametrize("prefix", ["eval", "test", "eval_hold_out"])
def test_line_of_an_evaluation(progress, prefix):
    """Data sets given as a dict have names of their own in front of the peer's."""
    logs = {f"{prefix}_vit/accuracy": 0.5, f"{prefix}_cnn_s/accuracy": 0.25, f"{prefix}_loss": 1.0}
    assert progress.line(7, logs) == f"step 7 · {prefix} · vit 50.0 % · cnn_s 25.0 %"


def test_lines_of_tasks_whose_training_quality_is_not_their_metric():
    """A bar that stays silent in training as it waits for a metric that no batch has; a CC in %."""
    logs = {"loss": 2.0, "a/pACC": 0.5, "a/taught": 0.25, "b/pACC": 0.75, "b/taught": 0.5}
    maps = CohortProgress(("a", "b"), TASKS["semantic-segmentation"].words, "pACC")
    assert maps.line(3, logs) == "step 3 · loss 2.000 · a 50.0 % taught 25.0 % · b 75.0 % taught 50.0 %"
    assert maps.line(3, {"eval_a/mIoU": 0.5, "eval_b/mIoU": 0.4}) == "step 3 · eval · a 50.0 % · b 40.0 %"
    video = CohortProgress(("a", "b"), TASKS["video-saliency"].words, "SIM")
    assert video.line(3, {"eval_a/CC": 0.5, "eval_b/CC": 0.4}) == "step 3 · eval · a 0.500 · b 0.400"


def test_other_logs_have_no_line(progress):
    """Run times and totals are for the history."""
    assert progress.line(7, {"train_runtime": 1.0, "train_loss": 0.5}) == ""
    assert progress.line(7, {}) == ""


def test_line_is_written_above_the_bar_by_one_process(progress):
    """Every process of a run writing its line, or a crash where bars are off."""
    written = []
    logs = {"eval_vit/accuracy": 0.5, "eval_cnn_s/accuracy": 0.25}
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    progress.on_log(None, state, None, logs=logs)
    progress.training_bar = SimpleNamespace(write=written.append)
    progress.on_log(None, state, None, logs=logs)
    progress.on_log(None, state, None, logs=None)
    state.is_world_process_zero = False
    progress.on_log(None, state, None, logs=logs)
    assert len(written) == 1


def test_a_control_says_nothing_of_teaching():
    """Nobody teaches in it; a share of 0 % reads like a failure."""
    control = CohortProgress(PEERS, TASKS["image-classification"].words, "accuracy", teaches=False)
    logs = {"loss": 2.0, "vit/accuracy": 0.5, "vit/taught": 0.0, "cnn_s/accuracy": 0.25, "cnn_s/taught": 0.0}
    assert control.line(4, logs) == "step 4 · loss 2.000 · vit 50.0 % · cnn_s 25.0 %"


def test_without_a_terminal_there_is_a_line_for_each_log(progress, monkeypatch, capsys):
    """A bar that is written into a file is a line for every step."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    state = SimpleNamespace(global_step=1, max_steps=2, is_world_process_zero=True)
    progress.on_train_begin(None, state, None)
    progress.on_step_end(None, state, None)
    progress.on_prediction_step(None, state, None, eval_dataloader=[1])
    progress.on_log(None, state, None, logs={"eval_vit/accuracy": 0.5, "eval_cnn_s/accuracy": 0.25})
    progress.on_train_end(None, state, None)
    progress.on_log(None, state, None, logs={"eval_vit/accuracy": 0.5, "eval_cnn_s/accuracy": 0.25})
    assert capsys.readouterr().out == "step 1 · eval · vit 50.0 % · cnn_s 25.0 %\n"
    assert sys.stderr.getvalue() == ""
