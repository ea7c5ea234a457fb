"""Peers are timed before they are shared out between processes, and are afterwards as they were."""

import copy
import json
import time

import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor
from torch import nn

from hf_mutual_kd import Cohort, LoadedPeer, MutualKDConfig, PeerSpec, time_peers
from hf_mutual_kd.peers.peer_mesh import PeerMesh
from hf_mutual_kd.peers.step_times import balanced, step_seconds


class Sleeps(nn.Module):
    """Takes so many seconds for a forward, and draws; its statistics move in training."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.norm = seconds, nn.BatchNorm1d(3)
        self.head = nn.Linear(3, len(LABELS))

    def forward(self, pixel_values):
        time.sleep(self.seconds)
        return nn.functional.dropout(self.head(self.norm(pixel_values.mean((2, 3)))), 0.1)


def cohort_of(*seconds, frozen=()):
    names = [f"p{place}" for place in range(len(seconds))]
    return Cohort(
        {
            name: LoadedPeer(Sleeps(one), tiny_processor(), PeerSpec(name, frozen=name in frozen))
            for name, one in zip(names, seconds, strict=True)
        },
        label_names=LABELS,
    )


@pytest.fixture
def args(tmp_path):
    settings = {"use_cpu": True, "report_to": "none", "per_device_train_batch_size": 4}
    return MutualKDConfig(str(tmp_path), **settings).resolved()


BY_WEIGHTS = PeerMesh([["p0", "p1"], ["p2"]], processes=2)


def test_places_take_about_as_long(args):
    """Peers of equal numbers of weights that take other times let all processes wait for one."""
    cohort = cohort_of(0.02, 0.0, 0.01)
    mesh = balanced(BY_WEIGHTS, cohort, make_rows(3), args)
    assert mesh.places == [["p0"], ["p1", "p2"]]
    assert (mesh.processes, mesh.process) == (2, 0)
    assert cohort.peer_seconds["p0"] > cohort.peer_seconds["p2"] > cohort.peer_seconds["p1"] > 0
    # A stream is read from its beginning.
    stream = make_rows(3).to_iterable_dataset()
    assert balanced(BY_WEIGHTS, cohort, stream, args).places == [["p0"], ["p1", "p2"]]


def test_timing_leaves_no_trace(args):
    """Statistics that have seen a batch more, gradients that lie there, or other draws are another training."""
    cohort = cohort_of(0.0, 0.0, 0.0)
    before, drawn = copy.deepcopy(cohort.state_dict()), torch.get_rng_state()
    balanced(BY_WEIGHTS, cohort, make_rows(3), args)
    assert drawn.equal(torch.get_rng_state())
    assert all(value.equal(before[key]) for key, value in cohort.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in cohort.parameters())


def test_what_only_teaches_runs_forward_alone(args):
    """A teacher that counts with a backward that it never runs takes a place for itself."""
    one = cohort_of(0.0, frozen=["p0"])
    assert step_seconds(one, make_rows(3), args) > 0
    assert all(weight.grad is None for weight in one.parameters())


def test_nothing_is_timed_where_nothing_is_shared_out(args, monkeypatch):
    """Loading and running every peer once more only makes the start longer."""
    cohort = cohort_of(0.0, 0.0, 0.0)
    for mesh, rows in [
        (PeerMesh([["p0"], ["p1"], ["p2"]], 3), make_rows(3)),
        (PeerMesh([cohort.names], 2), make_rows(3)),
        (BY_WEIGHTS, None),
    ]:
        assert balanced(mesh, cohort, rows, args) is mesh
    assert cohort.peer_seconds is None
    assert time_peers({"p0": "nowhere", "p1": "nowhere"}, None, args=args) == {}


def test_a_resumed_training_keeps_its_places(args, tmp_path):
    """Peers that are timed anew may go to other processes, on which dropout draws anew."""
    (tmp_path / "cohort.json").write_text(json.dumps({"peer_seconds": {"p0": 1.0, "p1": 5.0, "p2": 2.0}}))
    cohort = cohort_of(0.02, 0.0, 0.01)
    assert balanced(BY_WEIGHTS, cohort, make_rows(3), args).places == [["p0"], ["p1", "p2"]]
    (tmp_path / "checkpoint-3").mkdir()
    assert balanced(BY_WEIGHTS, cohort, make_rows(3), args).places == [["p0", "p2"], ["p1"]]
    assert cohort.peer_seconds == {"p0": 1.0, "p1": 5.0, "p2": 2.0}
    # Of other peers it says nothing.
    (tmp_path / "cohort.json").write_text(json.dumps({"peer_seconds": {"p0": 1.0, "p1": 5.0}}))
    assert balanced(BY_WEIGHTS, cohort, make_rows(3), args).places == [["p0"], ["p1", "p2"]]
