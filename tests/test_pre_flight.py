"""What is said before training."""

import pytest

from hf_mutual_kd.pre_flight import describe_start, expectation
from hf_mutual_kd.teachers import BestRule, LiveSource, Objective

OBJECTIVE = Objective(BestRule(), LiveSource(), retain=False)


def results(ensemble, **peers):
    found = {name: {"accuracy": value, "loss": 1.23456, "expected_share": 0.4} for name, value in peers.items()}
    return found | {"cohort": {"ensemble_accuracy": ensemble, "oracle_accuracy": 0.95, "samples": 12345}}


@pytest.mark.parametrize("ensemble", [0.80, 0.79])
def test_nothing_is_promised_where_the_ensemble_is_not_above_the_best(ensemble):
    """Hours of training for a gain that the start already rules out."""
    said = expectation(results(ensemble, vit=0.8, cnn=0.7), OBJECTIVE)
    assert "expect nothing from transfer; one-way from vit instead (--frozen_peers vit)?" in said
    assert f"{100 * (ensemble - 0.8):+.2f} points to vit" in said


def test_peers_that_complement_each_other():
    """The margin over the best peer, not over the mean, is what there is to gain."""
    said = expectation(results(0.85, vit=0.8, cnn=0.7), OBJECTIVE)
    assert said.startswith("The ensemble is +5.00 points above the best peer (vit)")


def test_control_and_single_peers():
    """Advice about transfer where there is none."""
    control = Objective(BestRule(), LiveSource(), weight=0.0)
    assert expectation(results(0.85, vit=0.8, cnn=0.7), control).startswith("Control: ")
    assert expectation(results(0.8, vit=0.8), OBJECTIVE).endswith("this is plain fine-tuning.")
    assert expectation(results(0.8, vit=0.8), control).endswith("this is plain fine-tuning.")
    retained = expectation(results(0.8, vit=0.8), Objective(BestRule(), LiveSource(), retain=True))
    assert "held to its own start (--retain false: plain)" in retained


def test_report_holds_every_figure():
    """A peer without its row, or a column in another unit."""
    text = describe_start(results(0.85, vit=0.8, cnn=0.7), OBJECTIVE)
    lines = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert rows == [
        ["vit", "80.0", "1.235", "40.0"], ["cnn", "70.0", "1.235", "40.0"],
        ["ensemble (mean)", "85.0", "", ""], ["oracle (any is right)", "95.0", "", ""],
    ]  # fmt: skip
    assert "on 12,345 validation samples" in text
    assert text.splitlines()[-1].startswith("The ensemble is +5.00 points")
