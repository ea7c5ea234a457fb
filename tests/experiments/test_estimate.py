"""How long a plan takes and how much room it needs, said before it begins."""

import re
from types import SimpleNamespace

import pytest
from recipe_run import argv, main

from hf_mutual_kd import MutualKDConfig
from hf_mutual_kd.experiments.estimate import LABELS, TAUGHT, Costs, Training, table, trainings_of

COSTS = Costs({LABELS: 0.5, TAUGHT: 1.0}, row_s=0.1, peak=3 * 2**30, weights=2**30, trained=2**29)
SPLITS = SimpleNamespace(train=range(800), validation=range(100), test=range(50))


def test_the_sum_is_the_one_by_hand(tmp_path):
    """An estimate that leaves out seeds, arms or evaluations promises an hour and takes a day."""
    config = MutualKDConfig(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        eval_strategy="epoch",
        save_total_limit=1,
        use_cpu=True,
    )
    plan = trainings_of(config, ("control", "mutual"), None)
    assert plan == [Training("control", LABELS), Training("mutual", TAUGHT)]
    said = table(config, plan, COSTS, SPLITS, seeds=2)
    # 200 steps at 0.5 s and 1 s; two evaluations of 100 rows and one of 50 at 0.1 s for each; all that twice.
    assert 2 * (100 + 200 + 2 * (20 + 5)) == 700
    assert "about 12 minutes on 1 device, 0.19 device-hours" in said
    # Weights and twice what trains; best and last weights beside it.
    assert (
        "at most 16.00 GiB = 2 × 2 trainings × (1 checkpoint of 2048 MiB + best and last weights of 1024 MiB" in said
    )


@pytest.mark.parametrize(("adapts", "ways"), [(True, ["gated", "mean"]), (False, [])])
def test_stages_are_counted(tmp_path, adapts, ways):
    """Stages that are forgotten are the longest part of a training."""
    stages = SimpleNamespace(adapts=adapts, ways=ways, controls={"a": 1, "b": 2}, trains_itself=True)
    plan = trainings_of(MutualKDConfig(str(tmp_path), use_cpu=True), (), stages)
    expected = (
        [
            Training("adapt", LABELS),
            Training("ways that are tried", TAUGHT, 0.25, 2),
            Training("the best way", TAUGHT, 0.75),
        ]
        if ways
        else []
    )
    assert plan == [*expected, Training("control", LABELS, times=2), Training("self-training", TAUGHT)]


def test_an_estimate_writes_nothing(place, tmp_path, capsys):
    """A folder that is left behind is in the way of the run that was estimated."""
    assert main(argv(place, tmp_path / "run", "--estimate", "true", "--seeds", "0", "1")) in (0, None)
    said = capsys.readouterr().out
    assert re.search(r"control +│ +4 │", said), said
    assert "2 seeds: about" in said
    assert not list(tmp_path.iterdir())
