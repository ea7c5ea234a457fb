"""The hunt: what would let a way of teaching win unfairly, and hand values of what it reports."""

# ruff: noqa: E402 - recipes are scripts, importable only once their folder is on the path

import dataclasses
import itertools
import sys
from pathlib import Path

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import evidence_data
import hunt
from correlation import among_partners, rank_correlation, with_interval
from evidence import Lab
from hunt_report import Found, is_worse, mean, outcome_rows, predictors, verdicts
from hunt_settings import POOL, REGIMES, Plain, Way, draw_pairs

has_embedded = pytest.mark.skipif(
    not (RECIPES / "embedded/fashion_mnist/train.parquet").exists(), reason="made by a script"
)
TWO = {"vitt_0": [0.5, 0.7], "cnn_0": [-0.2, -0.3]}


def found(**changes) -> Found:
    pairs = {("vitt_0", "cnn_0"): TWO, ("vitt_1", "cnn_1"): {"vitt_1": [0.1, 0.1], "cnn_1": [0.2, 0.4]}}
    known = {
        pair: {peer: {"good": sum(gains), "same": 1.0, "none": None} for peer, gains in peers.items()}
        for pair, peers in pairs.items()
    }
    facts = {"regime": "few", "way": "frozen mean", "pairs": pairs, "cohorts": {}, "known": known}
    return Found(**{**facts, "bars": dict.fromkeys(POOL, 80.0), "starts": dict.fromkeys(POOL, 79.0)} | changes)


def test_pairs_that_choose_do_not_confirm():
    """A way that is confirmed on the pairs it was chosen on has been tuned to them."""
    chosen, confirmed = draw_pairs()
    assert not set(chosen) & set(confirmed)
    assert sorted([*chosen, *confirmed]) == sorted(itertools.combinations(POOL, 2))
    assert (len(chosen), len(confirmed)) == (7, 21)
    assert len({peer for pair in confirmed for peer in pair}) >= 7


def test_a_peer_has_to_beat_the_best_of_start_and_controls_by_validation(monkeypatch):
    """A bar that is chosen on held-out rows, or that leaves out a good start, is unfair to one of the two sides."""
    lab = object.__new__(Lab)
    monkeypatch.setattr(Lab, "start", lambda self, start: {"validation": 80.0, "held": 79.0})
    values = {1e-3: (81.0, 70.0), 3e-4: (79.0, 90.0)}

    def control(self, regime, plain, seed):
        validation, held = values[plain.learning_rate]
        return {name: {"validation": validation, "held": held} for name in POOL}

    monkeypatch.setattr(hunt.Hunt, "control", control)
    regime = dataclasses.replace(REGIMES["all"], controls=(Plain(1e-3), Plain(3e-4)))
    assert hunt.Hunt(lab).bar(regime, seed=0)["cnn_0"]["held"] == 70.0
    regime = dataclasses.replace(regime, controls=(Plain(3e-4),))
    assert hunt.Hunt(lab).bar(regime, seed=0)["cnn_0"]["held"] == 79.0


def test_controls_smooth_labels_and_transfer_nothing():
    """A control that transfers, or never smooths, is not the one that the page names."""
    objective = Plain(1e-3, label_smoothing=0.1).objective()
    assert (objective.weight, objective.label_smoothing, objective.needs_starts) == (0.0, 0.1, False)
    assert {plain.label_smoothing for regime in REGIMES.values() for plain in regime.controls} == {0.0, 0.1}
    assert Way("best", "live", 2.0, retain=True).objective(unlabelled=True).needs_starts


def test_gains_by_hand():
    """A peer that got worse must count as such, and a weak peer's gain must not pass for the strong one's."""
    one = found()
    assert mean(each for _, _, each in one.gains()) == pytest.approx((0.6 - 0.25 + 0.1 + 0.3) / 4)
    assert list(one.strong_beside_weak()) == [[-0.2, -0.3], [0.2, 0.4]]
    assert is_worse([-0.2, -0.3])
    assert not is_worse([-0.1, 0.3])
    assert is_worse([-0.1])
    line = outcome_rows({("few", "Fashion-MNIST"): one})[0]
    assert line[:8] == ("few", "Fashion-MNIST", "+0.19", "0.05", "-0.25", "3/4", "3/4", "+0.03")
    said = verdicts({("few", "Fashion-MNIST"): one})[0]
    assert said.endswith(
        "mean ≥ +0.30: NO; ≥ 95 % of the peers not worse: NO; strong peers beside weak ones above 0 (+0.03): yes."
    )


def test_predictors_by_hand():
    """A number that never varies has no correlation, and one that is the gain itself has 1."""
    by_name = {
        line[0]: line[1:]
        for line in predictors(
            found(
                known={
                    pair: {peer: {"good": sum(gains), "same": 1.0} for peer, gains in peers.items()}
                    for pair, peers in found().pairs.items()
                }
            )
        )
    }
    assert by_name["good"][0] == pytest.approx(1.0)
    assert by_name["same"][0] != by_name["same"][0]
    assert rank_correlation([[(1.0, 2.0), (2.0, 1.0)]]) == pytest.approx(-1.0)
    rho, low, high = with_interval([[(place, place % 3)] for place in range(12)])
    assert low < rho < high
    three = {"a": [(1, 1.0), (2, 2.0), (3, 3.0)], "b": [(1, 3.0), (2, 2.0), (4, 1.0)], "few": [(1, 1.0), (2, 2.0)]}
    assert among_partners(three) == pytest.approx(0.0)
    assert among_partners({"a": three["a"], "same": [(1, 1.0)] * 3}) == pytest.approx(1.0)


def test_digits_share_no_row():
    """A held-out digit among the training rows would be measured by heart."""
    data = evidence_data.load_digits()
    parts = [data.pretrain, data.transfer, data.validation, data.held]
    unique = [part.images.flatten(1).unique(dim=0) for part in parts]
    assert [len(one) for one in unique] == [450, 700, 200, 447]
    assert len(torch.cat(unique).unique(dim=0)) == 1_797
    thirds = [evidence_data.slice_of(data.pretrain, seed).images.flatten(1).unique(dim=0) for seed in range(3)]
    assert [len(one) for one in thirds] == [150, 150, 150]


@has_embedded
def test_the_whole_hunt_runs_and_a_restart_trains_nothing_again(tmp_path, monkeypatch):
    """A page that cannot be written, or runs that a restart repeats, would cost an hour."""
    command = ["--quick", "--source", "embedded", "--seeds", "0", "--no_digits", "--output", str(tmp_path)]
    assert hunt.main(command) == 0
    page = (tmp_path / "hunt.md").read_text()
    assert "its figures mean nothing" in page
    assert all(f"| {way} |" in page for regime in REGIMES.values() for way in regime.ways)
    assert (tmp_path / "hunt.png").stat().st_size > 5_000
    monkeypatch.setattr(hunt, "train", None)
    assert hunt.main(command) == 0
    assert (tmp_path / "hunt.md").read_text() == page
