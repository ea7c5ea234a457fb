"""Peers that live on several processes: four of them, over gloo, against one process that holds all peers."""

import json
from pathlib import Path
from types import SimpleNamespace

import peer_parallel_run as runs
import pytest
import torch
from conftest import MAKERS, make_rows, tiny_processor, tiny_vit
from safetensors.torch import load_file
from torch.testing import assert_close
from two_processes import launch, outcome

from hf_mutual_kd import ConfigError, MutualKDConfig, PeerError, ResumeError
from hf_mutual_kd.peers.loading import save_peer
from hf_mutual_kd.peers.peer_mesh import PeerMesh, place_peers
from hf_mutual_kd.training.peer_states import joined, load_part, part_of

TIMES = ("runtime", "per_second")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with all peers."""
    out = tmp_path_factory.mktemp("alone")
    for run in runs.RUNS:
        runs.train(out / run, run)
    torch.manual_seed(0)
    save_peer(tiny_vit(), tiny_processor(), out / "base", None)
    save_peer(tiny_vit().vit, tiny_processor(), out / "encoder", None)
    runs.train_cut(out / "cut")
    runs.train_loaded(out / "loaded", out)
    runs.train_staged(out / "staged")
    runs.measure_maps(out / "maps")
    runs.train_cached(out / "cached")
    runs.train_scaled(out / "scaled")
    runs.train_compiled(out / "compiled")
    return out


@pytest.fixture(scope="module")
def spread(tmp_path_factory, alone):
    """Four processes, all trainings in one launch: importing takes longer than training."""
    out = tmp_path_factory.mktemp("spread")
    done = launch(str(out), str(alone), script="peer_parallel_run.py", processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """By file; what several processes have written of teachers as one."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        name = "teachers" if path.name.startswith("teachers") else str(path.relative_to(folder))
        found.setdefault(name, {}).update(load_file(path))
    return found


def assert_same_weights(left: Path, right: Path, exactly: bool = False) -> None:
    one, other = weights_of(left), weights_of(right)
    assert one.keys() == other.keys() != set()
    for name, weights in one.items():
        assert weights.keys() == other[name].keys()
        for key, value in weights.items():
            assert_close(value, other[name][key], rtol=0 if exactly else 1e-5, atol=0 if exactly else 1e-5)


def numbers_of(entry: dict) -> dict[str, float]:
    return {key: value for key, value in entry.items() if not any(word in key for word in TIMES)}


@pytest.mark.parametrize("run", [*runs.RUNS, "cut"])
def test_it_is_the_training_of_one_process(run, alone, spread):
    """A peer that hears others wrongly, or learns from rows twice, still trains, and no number looks odd."""
    assert_same_weights(alone / run / "checkpoint-6", spread / run / "checkpoint-6")
    for peer in (path.parent.name for path in alone.glob(f"{run}/*/model.safetensors")):
        assert_same_weights(alone / run / peer, spread / run / peer)
    assert (alone / run / "roles.parquet").read_bytes() == (spread / run / "roles.parquet").read_bytes()
    left, right = outcome(alone / run), outcome(spread / run)
    assert len(left["history"]) == len(right["history"]) > 2
    for one, other in zip([left["metrics"], *left["history"]], [right["metrics"], *right["history"]], strict=True):
        assert numbers_of(one) == pytest.approx(numbers_of(other), abs=2e-5)


@pytest.mark.parametrize(("run", "again"), [("four", "resumed"), ("cut", "cut_again")])
def test_it_resumes_exactly_and_onto_other_processes(run, again, alone, spread, tmp_path):
    """States that went to another peer's weights, or schedules that begin anew, only cost accuracy."""
    left, right = spread / run, spread / again
    assert_same_weights(left / "checkpoint-6", right / "checkpoint-6", exactly=True)
    assert (left / "roles.parquet").read_bytes() == (right / "roles.parquet").read_bytes()
    # From four processes to one; the files are the same, see below, and so is the way back.
    source = f"goes_on_from={left}"
    runs.train_cut(tmp_path, source) if run == "cut" else runs.train(tmp_path, run, source)
    assert_same_weights(alone / run / "checkpoint-6", tmp_path / "checkpoint-6")


@pytest.mark.parametrize(("run", "peers"), [("four", ["vit", "cnx", "vit_2", "cnx_2"]), ("cut", ["vit", "vit_2"])])
def test_a_checkpoint_is_one_of_one_process(run, peers, alone, spread):
    """Parts that are left beside it, or groups in another order, are found by whoever resumes next."""
    one, four = (out / run / "checkpoint-6" for out in (alone, spread))
    names = [{path.name for path in made.iterdir() if path.suffix != ".safetensors"} for made in (one, four)]
    assert names[0] - {"rng_state.pth"} == names[1] - {f"rng_state_{rank}.pth" for rank in range(4)}
    plans = [torch.load(made / "scheduler.pt", weights_only=True) for made in (one, four)]
    assert plans[0] == plans[1]
    left, right = (torch.load(made / "optimizer.pt", weights_only=True) for made in (one, four))
    assert left["param_groups"] == right["param_groups"]
    assert list(dict.fromkeys(group["peer"] for group in left["param_groups"])) == peers
    assert_close(left["state"], right["state"], rtol=1e-5, atol=1e-5)


def test_processes_that_load_their_own_peers_alone(alone, spread):
    """A head or an adapter that is drawn as its process finds the random numbers is another start."""
    assert_same_weights(alone / "loaded", spread / "loaded")
    states = [json.loads((out / "loaded/checkpoint-3/cohort_state.json").read_text()) for out in (alone, spread)]
    assert states[0]["starting_weights"] == states[1]["starting_weights"]
    assert (spread / "loaded" / "b" / "config.json").is_file()  # merged


def test_stages_are_those_of_one_process(alone, spread):
    """Processes that choose differently wait for each other, or keep peers that no validation has favored."""
    left, right = (json.loads((out / "staged/stages/stages.json").read_text()) for out in (alone, spread))
    assert left["done"] == right["done"]
    assert set(left["facts"]["kept"]) == {"vit", "cnx"}
    for fact in ("ways", "way", "controls", "labelled_share", "validation"):
        assert left["facts"][fact] == right["facts"][fact], fact
    for name, kept in left["facts"]["kept"].items():
        assert kept == pytest.approx(right["facts"]["kept"][name], abs=1e-5)
    assert_same_weights(alone / "staged", spread / "staged")


def test_all_processes_have_one_loss_scale(alone, spread):
    """One that skips a step alone is a step behind for ever, and its gradients count by another scale."""
    left, right = (out / "scaled" / "checkpoint-4" for out in (alone, spread))
    states = [torch.load(made / "scaler.pt", weights_only=True) for made in (left, right)]
    assert states[0] == states[1]
    assert states[0]["scale"] == 512.0
    assert_same_weights(left, right)


def test_compiled_peers_are_those_of_one_process(alone, spread):
    """A graph that holds what processes tell each other hears once, and repeats it for ever."""
    assert_same_weights(alone / "compiled", spread / "compiled")


@pytest.mark.parametrize(
    ("run", "task"), [("maps", "masks"), ("maps", "clips"), ("cached", "masks"), ("cached", "clips")]
)
def test_maps_are_heard_whole(run, task, alone, spread):
    """Maps of other sizes than a process' own, cut, of another row or view, teach nonsense without an error."""
    left, right = (json.loads((out / run / task / "outcome.json").read_text()) for out in (alone, spread))
    assert len(left) == len(right) >= 1
    for one, other in zip(left, right, strict=True):
        # Heads with queries draw the points of their loss.
        keys = [key for key in one if key != "mask2former/supervised"]
        assert {key: one[key] for key in keys} == pytest.approx({key: other[key] for key in keys}, abs=1e-5)
    roles = [(out / run / task / "roles.parquet").read_bytes() for out in (alone, spread)]
    assert roles[0] == roles[1]


def test_processes_agree_on_what_steps_take(spread):
    """Each by its own clock holds other peers, and waits for ever for one that nobody runs."""
    found = json.loads((spread / "shared.json").read_text())
    assert len(found) == 4
    assert all(one == found[0] for one in found)
    assert list(found[0]["seconds"]) == list(MAKERS)
    assert found[0]["places"] == [["vit", "cnx"], ["cnn"]]  # by their weights not
    # A training of modules that were given has timed them itself, and finds that when it is resumed.
    assert list(json.loads((spread / "share" / "cohort.json").read_text())["peer_seconds"]) == ["vit", "cnx", "vit_2"]


def test_places_are_even_and_learn():
    """A process without a peer that learns has no optimizer, and one with all large ones makes the others wait."""
    sizes = {"a": 90, "b": 20, "c": 30, "d": 200}
    assert place_peers(sizes, ["d"], 2) == [["a"], ["b", "c", "d"]]
    assert place_peers(sizes, [], 2) == [["a", "b", "c"], ["d"]]
    assert place_peers(sizes, [], 4) == [["a"], ["b"], ["c"], ["d"]]
    mesh = PeerMesh([["a"], ["b"]], processes=6, process=3)
    assert (mesh.data_ranks, mesh.data_rank, mesh.held) == (3, 1, ["b"])
    assert [PeerMesh([["a"], ["b"]], 6, rank).writes("b", should_save=rank == 0) for rank in range(6)] == [
        False,
        True,
        False,
        False,
        False,
        False,
    ]


REFUSED = {
    "detach 'none'": {"preset": "reference"},
    "refresh_epochs": {"teacher_source": "table", "score_table": "x", "augment": False, "refresh_epochs": 1},
    "split_batches": {"accelerator_config": {"split_batches": True}},
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_needs_all_peers_is_refused(named, make_cohort, tmp_path):
    """Each would train something else than one process does, and say nothing."""
    settings = {"use_cpu": True, "report_to": "none", "peer_parallel": True}
    args = MutualKDConfig(str(tmp_path), **settings | REFUSED[named]).resolved()
    with pytest.raises(ConfigError, match=f"{named}.*peer_parallel"):
        PeerMesh.of(args, make_cohort("vit", "cnx"))
    args = MutualKDConfig(str(tmp_path), **settings).resolved()
    with pytest.raises(ConfigError, match="optimizer_cls_and_kwargs"):
        PeerMesh.of(args, make_cohort("vit", "cnx"), (torch.optim.SGD, None))


def test_processes_that_cannot_be_shared_out_are_refused(make_cohort, tmp_path, monkeypatch):
    """Some process would hold nothing, or every process everything."""
    args = MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none", peer_parallel=True).resolved()
    assert not PeerMesh.of(args, make_cohort("vit", "cnx")).is_split
    monkeypatch.setattr(MutualKDConfig, "world_size", 5)
    with pytest.raises(ConfigError, match="2 peers cannot be placed on 5 processes"):
        PeerMesh.of(args, make_cohort("vit", "cnx"))
    monkeypatch.setattr(MutualKDConfig, "world_size", 4)
    mesh = PeerMesh.of(args, make_cohort("vit", "cnx"))
    assert mesh.data_ranks == 2
    stream = make_rows(3).to_iterable_dataset()
    with pytest.raises(ConfigError, match="eval_dataset is a stream.*start 2 processes"):
        mesh.check_rows(stream, "eval_dataset")


def test_a_part_of_a_cohort_says_so(make_cohort, tmp_path):
    """Peers without weights would be saved, or asked, as if they had some."""
    cohort = make_cohort("vit", "cnx")
    cohort.hold([["vit"], ["cnx"]], 0, SimpleNamespace())
    assert cohort.names == ["vit", "cnx"]
    assert {weight.device.type for weight in cohort.parameters()} == {"cpu"}
    assert {weight.device.type for weight in cohort.model_of("cnx").parameters()} == {"meta"}
    with pytest.raises(PeerError, match="other processes hold"):
        cohort.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="holds vit alone"):
        cohort.predict([])
    args = MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none").resolved()
    with pytest.raises(ConfigError, match="holds only vit"):
        PeerMesh.of(args, cohort)
    args = MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none", peer_parallel=True).resolved()
    cohort.freeze(["cnx"])
    with pytest.raises(ConfigError, match="not as its peers learn now; load the peers anew"):
        PeerMesh.of(args, cohort)


def test_states_are_joined_and_parted():
    """Weights are numbered: one that is off by one gives each weight another one's momentum."""
    a = {"state": {0: "A0", 1: "A1"}, "param_groups": [{"peer": "a", "params": [0, 1]}, {"params": [2]}]}
    b = {"state": {1: "B1"}, "param_groups": [{"peer": "b", "params": [0]}, {"peer": "c", "params": [1]}]}
    plans = [{"base_lrs": [0.1, 0.9], "last_epoch": 3}, {"base_lrs": [0.2, 0.3], "last_epoch": 3}]
    state, plan = joined([a, b], plans, ["b", "a", "c"])
    assert [(group.get("peer"), group["params"]) for group in state["param_groups"]] == [
        ("b", [0]),
        ("a", [1, 2]),
        ("c", [3]),
        (None, [4]),
    ]
    assert state["state"] == {1: "A0", 2: "A1", 3: "B1"}
    assert plan == {"base_lrs": [0.2, 0.1, 0.3, 0.9], "last_epoch": 3}
    assert part_of(state, plan, ["a"]) == (a, plans[0])


def test_a_state_that_says_not_whose_it_is_is_refused(tmp_path):
    """An optimizer of another version would begin anew."""
    torch.save({"state": {}, "param_groups": [{"params": [0]}]}, tmp_path / "optimizer.pt")
    torch.save({"base_lrs": [0.1]}, tmp_path / "scheduler.pt")
    with pytest.raises(ResumeError, match="does not say which weights are whose"):
        load_part(tmp_path, SimpleNamespace(param_groups=[{"peer": "vit", "params": []}]), None)
