"""The evidence recipe: what would make its comparisons unfair, that every setting runs, that one is reached (slow)."""

# ruff: noqa: E402 - recipes are scripts, importable only once their folder is on the path

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import evidence
import evidence_data
from evidence_models import Perceptron, Start
from evidence_settings import SETTINGS, Bar, Plan, objective_of

from hf_mutual_kd import Cohort, DataError, LoadedPeer, PeerSpec

has_embedded = pytest.mark.skipif(
    not (RECIPES / "embedded/fashion_mnist/train.parquet").exists(), reason="made by a script"
)


def noise_rows(count: int, labelled: int | None = None) -> evidence_data.Rows:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    labels[count if labelled is None else labelled :] = -1
    return evidence_data.Rows(torch.randn(count, 1, 28, 28, generator=generator), labels)


def cohort_of(*models: torch.nn.Module) -> Cohort:
    return Cohort({f"peer{place}": LoadedPeer(model, None, PeerSpec()) for place, model in enumerate(models)})


@has_embedded
def test_every_setting_runs_and_a_restart_trains_nothing_again(tmp_path, capsys):
    """A setting that cannot run, or results that a restart computes anew or differently, would cost
    everyone a quarter of an hour."""
    command = ["--quick", "--source", "embedded", "--seeds", "0", "--output", str(tmp_path)]
    assert evidence.main(command) == 0
    first = json.loads((tmp_path / "results.json").read_text())
    assert list(first["settings"]) == list(SETTINGS)
    for name, setting in SETTINGS.items():
        peers = first["settings"][name]["peers"]
        assert list(peers) == list(setting.peers)
        assert all(len(peer["delta"]) == 1 for peer in peers.values())
        assert all(("reference" in one) == (name != "B") for peer in peers.values() for one in peer["per_seed"])
        assert f"## {name}: " in (tmp_path / "evidence.md").read_text()
    assert (tmp_path / "evidence.png").stat().st_size > 10_000
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache-*/**/*") if path.is_file()}
    assert not [path for path in kept if path.name.endswith(".unfinished")]
    assert evidence.main(command) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache-*/**/*") if path.is_file()}
    assert json.loads((tmp_path / "results.json").read_text()) == first
    assert "its figures mean nothing" in capsys.readouterr().out


def test_control_is_plain_fine_tuning_of_each_peer_alone():
    """A control that differs from what a user would do without this package makes every gain over it worthless."""
    torch.manual_seed(0)
    models = [Perceptron(), Perceptron()]
    rows = noise_rows(64)
    batches = evidence.make_batches(64, 0, Plan("control", 3), seed=1)
    alone = copy.deepcopy(models[1])
    evidence.train(cohort_of(*models), objective_of("control"), evidence.Course(rows, batches, 1e-2))
    optimizer = torch.optim.Adam(alone.parameters(), lr=1e-2, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for index in batches:
        optimizer.zero_grad()
        functional.cross_entropy(alone(rows.images[index]), rows.labels[index]).backward()
        optimizer.step()
        schedule.step()
    for ours, plain in zip(models[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_cached_start_outputs_change_nothing():
    """Outputs looked up under another row's number would teach noise without any error."""
    torch.manual_seed(0)
    models = [Perceptron(), Perceptron()]
    rows = noise_rows(40, labelled=16)
    batches = evidence.make_batches(16, 24, Plan("mean", 2), seed=0)
    cached, live = copy.deepcopy(models), copy.deepcopy(models)
    evidence.train(cohort_of(*cached), objective_of("mean"), evidence.Course(rows, batches, 1e-2))
    cohort = cohort_of(*live)
    cohort.set_objective(objective_of("mean"))
    optimizer = torch.optim.Adam([w for m in live for w in m.parameters()], lr=1e-2, weight_decay=1e-5, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for index in batches:
        optimizer.zero_grad()
        cohort(peer_inputs=evidence.inputs(cohort, rows.images[index]), labels=rows.labels[index]).loss.backward()
        optimizer.step()
        schedule.step()
    for left, right in zip(cached, live, strict=True):
        for a, b in zip(left.parameters(), right.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_control_sees_the_labelled_rows_of_the_same_batches():
    """Arms that see labels in another order or number would be compared on luck."""
    arm = evidence.make_batches(1_000, 7_000, Plan("mean", 3), seed=5)
    control = evidence.make_batches(1_000, 7_000, Plan("control", 3), seed=5)
    assert len(arm) == len(control) == 3 * (8_000 // 128)
    assert all(torch.equal(mixed[mixed < 1_000], labelled) for mixed, labelled in zip(arm, control, strict=True))
    epoch = torch.cat(arm[: len(arm) // 3])
    assert torch.equal(epoch.sort().values, torch.arange(8_000))
    assert {len(batch) for batch in arm} <= {128, 129, 130}


def test_labels_alone_are_batches_of_labelled_rows():
    """A control of 16 rows a step would be weaker than the one that a user of 1,000 labels has."""
    batches = evidence.make_batches(1_000, 7_000, Plan("control", 20, labels_alone=True), seed=0)
    assert len(batches) == 20 * 7
    assert torch.cat(batches).max() == 999


def test_no_row_is_shared_between_specialists_or_seeds():
    """Peers that saw the same rows, or fresh rows that are not fresh, would blur what transfer adds."""
    rows = noise_rows(600)
    rows.images[:, 0, 0, 0] = torch.arange(600)

    def numbers(part):
        return set(part.images[:, 0, 0, 0].int().tolist())

    slices = [evidence_data.slice_of(rows, seed) for seed in range(3)]
    assert set.union(*map(numbers, slices)) == set(range(600))
    first, second = (evidence_data.skewed(rows, 1, member) for member in (0, 1))
    assert not numbers(first) & numbers(second)
    assert torch.bincount(first.labels).tolist() == [36] * 5 + [4] * 5
    assert torch.bincount(second.labels).tolist() == [4] * 5 + [36] * 5


def test_shift_moves_by_one_pixel_at_most():
    """A shift that mixes rows of a batch trains on images of another label."""
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 28, 28).clone()
    images[:, :, 10, 10] = 50.0
    moved = evidence_data.shift(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:, 0, 0, 0], torch.arange(3.0))
    places = (moved == 50.0).nonzero()[:, 2:]
    assert len(places) == 3
    assert (places - 10).abs().max() <= 1


def test_six_peers_start_from_different_rows():
    """Six copies of two starts would have nothing to teach each other."""
    starts = SETTINGS["E"].starts(seed=2)
    assert len(set(starts.values())) == 6
    assert starts["mlp_1"] == Start("mlp", 1)


def test_a_bar_is_strict_about_every_seed_and_silent_without_a_promise():
    """A bar that passes on an equal or missing figure would report what was not shown."""
    bar = Bar({"mlp": 0.35}, every_seed=0.2)
    assert bar.met("mlp", [0.3, 0.4, 0.41]) is True
    assert bar.met("mlp", [0.2, 0.6, 0.6]) is False
    assert bar.met("mlp", [0.3, 0.3, 0.3]) is False
    assert Bar({"cnn": -0.3}).met("vitt", [-5.0]) is None
    assert Bar(average=0.5).average_met([[1.0], [0.0]]) is True


def test_the_better_control_is_chosen_on_validation_rows(tmp_path):
    """Choosing the control on the reported rows would make the held-out figures no longer held out."""

    class TwoControls(evidence.Lab):
        def start(self, start):
            return {"validation": 80.0, "held": 80.0}

        def run(self, setting, plan, seed):
            good = plan.learning_rate == 3e-4
            figures = {"validation": 85.0 if good else 84.0, "held": 84.0 if good else 86.0}
            return dict.fromkeys(setting.peers, figures)

    empty = noise_rows(0)
    lab = TwoControls(evidence_data.FashionMNIST("none", empty, empty, empty, empty), tmp_path)
    found = lab.compare(SETTINGS["E"], seed=0, reference=False)
    assert all(one["control"]["held"] == 84.0 for one in found.values())


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
    """A wrong --source must not silently fall back to other data."""
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        evidence_data.load(str(tmp_path))
    assert evidence.main(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not evidence_data.has_package(evidence_data.SOURCE), reason="needs Debian's dataset-fashion-mnist")
def test_specialists_learn_from_each_other_without_a_label(tmp_path):
    """The gain that the README leads with must come out of this code, not of a file."""
    assert evidence.main(["--settings", "B", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["B"]["reached"] is True
