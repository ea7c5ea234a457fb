"""What is kept of a peer: never worse than what it had, and nothing that only noise favours."""

import numpy as np
import pytest

from hf_mutual_kd import DataError
from hf_mutual_kd.training.choice import Candidate, best_way, choose, paired

ROWS = 400


def scored(what, right, alpha=1.0, way=None, shift=0):
    """A candidate that is right on so many rows, beginning at `shift`."""
    scores = np.zeros(ROWS)
    scores[np.arange(shift, shift + right) % ROWS] = 1.0
    return Candidate(what, right / ROWS, scores, alpha, way)


def test_what_is_kept_is_never_worse_than_start_and_control():
    """A strong peer beside a weak one lost two points and was shipped so."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        candidates = [
            scored(what, int(generator.integers(200, 300)), alpha, shift=int(generator.integers(0, 40)))
            for what, alpha in (("start", 1.0), ("control", 1.0), ("control", 0.5), ("self", 1.0), ("mutual", 1.0))
        ]
        kept = choose(candidates)
        assert kept.value >= max(candidates[0].value, candidates[1].value)
        assert kept.what in (kept.against, "self", "mutual", "control")


def test_noise_does_not_take_the_place_of_the_control():
    """Small validation sets pick what was fitted on them: without a margin 2 of 9 peers got worse."""
    control, lucky = scored("control", 300), scored("mutual", 303, shift=200)
    assert paired(lucky.scores, control.scores)[0] < paired(lucky.scores, control.scores)[1]
    assert choose([scored("start", 100), control, lucky]).what == "control"
    kept = choose([scored("start", 100), control, scored("mutual", 312, way="mean")])
    assert (kept.what, kept.way, kept.against) == ("mutual", "mean", "control")
    assert kept.gain == pytest.approx(0.03)
    assert 0 < kept.margin < kept.gain


def test_the_simpler_of_two_that_are_as_good_is_kept():
    """Mutual weights in the place of self-trained ones that are as good would credit the peers with nothing."""
    candidates = [scored("start", 100), scored("control", 300), scored("self", 330), scored("mutual", 331)]
    assert choose(candidates).what == "self"
    assert choose([*candidates[:3], scored("mutual", 350)]).what == "mutual"


def test_a_tie_between_start_and_control_keeps_the_start():
    """A control that changed nothing but the file would be shipped as an improvement."""
    assert choose([scored("control", 300), scored("start", 300), scored("adapted", 300)]).what == "start"


def test_an_interpolation_has_to_be_better_than_the_best_plain_candidate():
    """A quarter of the way, chosen because it was tried often, is a choice of noise."""
    plain = [scored("start", 300), scored("control", 280)]
    assert choose([*plain, scored("mutual", 260), scored("mutual", 301, alpha=0.25)]).what == "start"
    kept = choose([*plain, scored("mutual", 260), scored("mutual", 320, alpha=0.25)])
    assert (kept.what, kept.alpha) == ("mutual", 0.25)
    assert choose([*plain, scored("mutual", 340), scored("mutual", 341, alpha=0.25)]).alpha == 1.0
    assert choose([*plain, scored("control", 320, alpha=0.5)]).alpha == 0.5
    lucky = scored("control", 303, alpha=0.5, shift=200)
    assert choose([scored("start", 100), scored("control", 300), lucky]).alpha == 1.0


def test_losses_are_better_when_they_are_lower():
    """A metric read upside down would keep the worst peer and report a gain."""
    worse, better = np.zeros(50), np.ones(50)
    better[:10] = 0.5
    kept = choose([Candidate("start", 2.0, worse), Candidate("mutual", 1.0, better)], greater_is_better=False)
    assert kept.what == "mutual"


def test_broken_candidates_are_never_kept():
    """NaN compares as neither better nor worse, and could slip through every margin."""
    broken = Candidate("mutual", float("nan"), np.full(ROWS, np.nan))
    assert choose([scored("start", 10), broken]).what == "start"
    with pytest.raises(DataError, match="nothing to choose by"):
        choose([Candidate("start", float("nan"), np.zeros(0))])
    with pytest.raises(DataError, match="different rows"):
        choose([scored("start", 10), Candidate("mutual", 1.0, np.ones(3))])


def test_the_way_is_chosen_by_the_mean_over_peers():
    """A way that lifts one peer and drowns another would win by its best peer."""
    ways = {"gated": {"a": 0.80, "b": 0.70}, "mean": {"a": 0.90, "b": 0.50}, "class": {"a": float("nan"), "b": 1.0}}
    assert best_way(ways) == "gated"
    assert best_way({"first": {"a": 1.0}, "second": {"a": 1.0}}) == "first"
    assert best_way({"first": {"a": 1.0}, "second": {"a": 0.5}}, greater_is_better=False) == "second"
