"""Log-probabilities in 8 bits."""

import pytest
import torch
from torch.testing import assert_close

from hf_mutual_kd.distillation.eight_bits import BROKEN, LOWEST, pack, unpack


def test_codes_by_hand():
    """A code that rises linearly spends most of its steps on classes that nobody believes."""
    ratios = torch.tensor([[0.0, LOWEST / 4, LOWEST, 3 * LOWEST, float("-inf")]])
    assert pack(ratios - 7.0).tolist() == [[0, 128, 255, 255, 255]]
    found = unpack(torch.tensor([[0, 128, 255]], dtype=torch.uint8))
    assert_close(found, torch.tensor([[0.0, LOWEST * (128 / 255) ** 2, LOWEST]]))


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("classes", [2, 150, 1000])
def test_nothing_is_lost_that_a_student_could_tell(classes, spread):
    """Teachers of fewer bits must not be others: 2e-4 nats is a hundredth of what one step learns."""
    log_probs = (spread * torch.randn(64, classes)).log_softmax(1)
    kept = unpack(pack(log_probs)).log_softmax(1)
    assert (log_probs.exp() * (log_probs - kept)).sum(1).max() < 2e-4
    # The first, not the best, of classes that come to the same code.
    rows = torch.arange(64)
    assert_close(log_probs[rows, kept.argmax(1)].exp(), log_probs.exp().amax(1), rtol=2e-3, atol=0)


def test_a_distribution_over_a_whole_map():
    """Cells that are compared with the greatest of their column are no density."""
    maps = torch.randn(3, 4, 5)
    kept = unpack(pack(maps, (1, 2)), (1, 2))
    assert_close(kept.flatten(1).softmax(1), maps.flatten(1).softmax(1), rtol=0.06, atol=1e-4)
    assert (pack(maps, (1, 2)).flatten(1) == 0).sum(1).tolist() == [1, 1, 1]


def test_broken_units_stay_broken():
    """A NaN that becomes a code is a teacher like any other."""
    values = torch.zeros(4, 3, 2)
    values[0, 1, 0] = float("nan")
    values[1, :, 1] = float("-inf")
    values[2, 2, 0] = float("inf")
    codes, broken = pack(values), torch.tensor([[True, False], [False, True], [True, False], [False, False]])
    assert torch.equal((codes == BROKEN).all(1), broken)
    assert torch.equal(unpack(codes).isnan().all(1), broken)
    assert torch.equal(unpack(codes).isnan().any(1), broken)
