"""The best of every peer, and who gains no more."""

import json

import pytest

from hf_mutual_kd.training.peer_bests import PeerBests

NAN = float("nan")


def test_every_peer_has_its_own_best():
    """One common best step would return some peers worse than they have been."""
    bests = PeerBests(["a", "b"], greater_is_better=True)
    assert bests.found == []
    assert bests.update({"a": 0.5, "b": 0.9}, 10) == ["a", "b"]
    assert bests.update({"a": 0.7, "b": 0.8}, 20) == ["a"]
    assert bests.update({"a": 0.6, "b": 0.95}, 30) == ["b"]
    assert (bests.values, bests.steps) == ({"a": 0.7, "b": 0.95}, {"a": 20, "b": 30})
    assert bests.stopped == []


@pytest.mark.parametrize(("greater", "better", "worse"), [(True, 2.0, 1.0), (False, 1.0, 2.0)])
def test_direction_and_ties(greater, better, worse):
    """A loss that is maximised selects the worst checkpoint; a tie must keep the earlier one."""
    bests = PeerBests(["a"], greater_is_better=greater)
    bests.update({"a": worse}, 1)
    assert bests.update({"a": worse}, 2) == []
    assert bests.update({"a": better}, 3) == ["a"]
    assert bests.update({"a": worse}, 4) == []
    assert bests.steps == {"a": 3}


def test_nan_is_never_better():
    """A broken peer's NaN that counts as best would replace its good weights."""
    bests = PeerBests(["a", "b"], greater_is_better=True, patience=2)
    assert bests.update({"a": NAN, "b": 0.5}, 1) == ["b"]
    assert bests.found == ["b"]
    assert bests.update({"a": 0.1, "b": NAN}, 2) == ["a"]
    assert bests.values == {"a": 0.1, "b": 0.5}
    bests.update({"a": NAN, "b": NAN}, 3)
    assert bests.stopped == ["b"]


def test_patience_counts_evaluations_without_gain_and_stays():
    """A stopped peer whose weights rest must not count a lucky evaluation as gain and wake up."""
    bests = PeerBests(["a", "b"], greater_is_better=True, patience=2)
    for step, value in enumerate([0.5, 0.4, 0.6, 0.6, 0.6]):
        bests.update({"a": value, "b": step}, step)
    assert bests.stopped == ["a"]
    assert bests.update({"a": 0.9, "b": 9}, 9) == ["b"]
    assert bests.values["a"] == 0.6
    assert bests.stopped == ["a"]


def test_state_survives_json():
    """A resumed run that forgets its patience or bests trains longer and keeps worse weights."""
    bests = PeerBests(["a", "b"], greater_is_better=True, patience=2)
    bests.update({"a": 0.5, "b": NAN}, 1)
    bests.update({"a": 0.4, "b": NAN}, 2)
    text = json.dumps(bests.state(), allow_nan=False)
    again = PeerBests(["a", "b"], greater_is_better=True, patience=2)
    again.load(json.loads(text), {})
    assert again.state() == bests.state()
    assert again.stopped == bests.stopped == ["b"]
    again.update({"a": 0.9, "b": 1.0}, 3)
    assert json.dumps(bests.state()) == text
