"""Each peer is clipped by its own norm, and broken or resting peers take no step."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hf_mutual_kd.training.clipping import clip_each_peer


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def parameter(*gradient):
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient) if gradient else None
    return made


def test_norms_are_per_peer(accelerator):
    """One norm for all would let the peer with large gradients shrink the others' steps."""
    peers = {"big": [parameter(300.0), parameter(400.0)], "small": [parameter(0.3, 0.4)], "medium": [parameter(3.0)]}
    norm, broken = clip_each_peer(accelerator, peers, max_norm=1.0)
    assert norm.item() == pytest.approx((500**2 + 0.5**2 + 3**2) ** 0.5)
    assert broken == []
    torch.testing.assert_close(torch.cat([p.grad for p in peers["big"]]), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(peers["small"][0].grad, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(peers["medium"][0].grad, torch.tensor([1.0]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_peer_takes_no_step_and_harms_nobody(accelerator, value):
    """0 * NaN is NaN: clipping by a broken norm poisons every weight."""
    peers = {"broken": [parameter(1.0), parameter(value)], "sound": [parameter(3.0, 4.0)]}
    norm, broken = clip_each_peer(accelerator, peers, max_norm=1.0)
    assert (norm.item(), broken) == (5.0, ["broken"])
    assert [p.grad for p in peers["broken"]] == [None, None]
    torch.testing.assert_close(peers["sound"][0].grad, torch.tensor([0.6, 0.8]))


def test_resting_peer_takes_no_step(accelerator):
    """A zero gradient still moves weights by momentum and weight decay; none does not."""
    peers = {"rests": [parameter(float("nan"))], "learns": [parameter(2.0)]}
    norm, broken = clip_each_peer(accelerator, peers, max_norm=0.5, resting={"rests"})
    assert (norm.item(), broken) == (2.0, [])
    assert peers["rests"][0].grad is None
    assert peers["learns"][0].grad.item() == pytest.approx(0.5)


def test_zero_clips_nothing_but_still_drops_broken_peers(accelerator):
    """`max_grad_norm=0` means no clipping, not gradients of zero."""
    peers = {"a": [parameter(300.0, 400.0)], "b": [parameter(float("nan"))]}
    norm, broken = clip_each_peer(accelerator, peers, max_norm=0.0)
    assert (norm.item(), broken) == (500.0, ["b"])
    assert peers["a"][0].grad.tolist() == [300.0, 400.0]
    assert peers["b"][0].grad is None


def test_peers_without_gradients_are_passed_over(accelerator):
    """A frozen peer has none, and a step in which nobody learns has none at all."""
    norm, broken = clip_each_peer(accelerator, {"a": [parameter()], "b": []}, max_norm=1.0)
    assert (norm.item(), broken) == (0.0, [])
    norm, broken = clip_each_peer(accelerator, {"a": [parameter()], "b": [parameter(), parameter(2.0)]}, max_norm=1.0)
    assert (norm.item(), broken) == (2.0, [])
