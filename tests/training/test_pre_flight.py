"""What is said before training."""

import pytest

from hf_mutual_kd import TASKS, BestRule, LiveSource, Objective
from hf_mutual_kd.training.pre_flight import expectation, start_table

CLASSES = TASKS["image-classification"].words
OBJECTIVE = Objective(BestRule(), LiveSource(), retain=False)


def results(ensemble, **peers):
    found = {name: {"accuracy": value, "loss": 1.23456, "expected_share": 0.4} for name, value in peers.items()}
    return found | {"cohort": {"ensemble_accuracy": ensemble, "oracle_accuracy": 0.95, "samples": 12345}}


@pytest.mark.parametrize("ensemble", [0.80, 0.79])
def test_nothing_is_promised_where_the_ensemble_is_not_above_the_best(ensemble):
    """Hours of training for a gain that the start already rules out."""
    said = expectation(results(ensemble, vit=0.8, cnn=0.7), OBJECTIVE, CLASSES)
    assert "cnn may gain from it, vit may lose; let it teach all others (--teacher_rule fixed:vit)" in said
    assert f"{100 * (ensemble - 0.8):+.2f} points to vit" in said


def test_peers_that_complement_each_other():
    """The margin over the best peer, not over the mean, is what there is to gain."""
    said = expectation(results(0.85, vit=0.8, cnn=0.7), OBJECTIVE, CLASSES)
    assert said == "The ensemble is +5.00 points above the best peer (vit): cnn, vit may gain, the first of them most."


def test_control_and_single_peers():
    """Advice about transfer where there is none."""
    control = Objective(BestRule(), LiveSource(), weight=0.0)
    assert expectation(results(0.85, vit=0.8, cnn=0.7), control, CLASSES).startswith("Control: ")
    assert expectation(results(0.8, vit=0.8), OBJECTIVE, CLASSES).endswith("this is plain fine-tuning.")
    assert expectation(results(0.8, vit=0.8), control, CLASSES).endswith("this is plain fine-tuning.")
    retained = expectation(results(0.8, vit=0.8), Objective(BestRule(), LiveSource(), retain=True), CLASSES)
    assert "held to its own start (--retain false: plain)" in retained


def test_report_holds_every_figure():
    """A peer without its row, or a column in another unit."""
    text = start_table(results(0.85, vit=0.8, cnn=0.7), OBJECTIVE, CLASSES)
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert rows == [
        ["vit", "80.0", "1.235", "40.0", "+5.00"],
        ["cnn", "70.0", "1.235", "40.0", "+15.00"],
        ["ensemble (mean)", "85.0", "", "", ""],
        ["oracle (any is right)", "95.0", "", "", ""],
    ]
    assert "on 12,345 validation samples" in text
    assert text.splitlines()[-1].startswith("The ensemble is +5.00 points")
    worse = results(0.7, vit=0.8, cnn=0.6)
    assert start_table(worse, OBJECTIVE, CLASSES).endswith("(--teaching auto)?")
    said = start_table(worse, OBJECTIVE, CLASSES, keeps_best=True)
    assert said.endswith("vit may lose; what validation favours of each is kept.")


def rows_of(text):
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    return {cells[0].strip(): cells[1].strip() for cells in lines}


def test_every_task_is_reported_in_its_own_metric():
    """A run of segmentation that ends before its first step for want of an accuracy; a CC in %."""
    peers = {
        "seg": {"mIoU": 0.41, "loss": 1.0, "expected_share": 0.4},
        "m2f": {"mIoU": 0.4, "loss": 1.0, "expected_share": 0.6},
    }
    cohort = {"ensemble_mIoU": 0.45, "oracle_pACC": 0.9, "samples": 66}
    text = start_table(peers | {"cohort": cohort}, OBJECTIVE, TASKS["semantic-segmentation"].words)
    assert rows_of(text) == {
        "seg": "41.0",
        "m2f": "40.0",
        "ensemble (mean)": "45.0",
        "oracle (any is right), pACC, %": "90.0",
    }
    assert "mIoU %" in text
    assert text.endswith(
        "The ensemble is +4.00 points of mIoU above the best peer (seg): m2f, seg may gain, the first of them most."
    )
    peers = {
        "mae": {"CC": 0.5, "loss": 1.0, "expected_share": 0.4},
        "s3d": {"CC": 0.51, "loss": 1.0, "expected_share": 0.6},
    }
    cohort = {"ensemble_CC": 0.505, "centre_prior_CC": 0.2, "centre_prior_SIM": 0.1, "samples": 40}
    text = start_table(peers | {"cohort": cohort}, OBJECTIVE, TASKS["video-saliency"].words)
    assert rows_of(text) == {"mae": "0.500", "s3d": "0.510", "ensemble (mean)": "0.505", "centre prior": "0.200"}
    assert "(-0.005 in CC to s3d)" in text


def test_without_labels_agreement_is_all_there_is_to_say():
    """An error where a task knows no agreement either."""
    found = {"seg": {"agreement": 0.8}, "m2f": {"agreement": 0.7}, "cohort": {"samples": 4}}
    said = start_table(found, OBJECTIVE, TASKS["semantic-segmentation"].words)
    assert said == (
        "Without labels no mIoU can be measured. Agreement with the mean of the peers: seg 80.0 %, m2f 70.0 %."
    )
    found = {"mae": {}, "cohort": {"samples": 4}}
    assert start_table(found, OBJECTIVE, TASKS["video-saliency"].words) == "Without labels no CC can be measured."
