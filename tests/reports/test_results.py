"""What the arms of a run found, by hand."""

import json
from pathlib import Path

import pytest

from hf_mutual_kd.reports.results import Arm, collect, difference, markdown, results_table, verdict
from hf_mutual_kd.tasks.registry import TASKS

CLASSES, VIDEO = TASKS["image-classification"].words, TASKS["video-saliency"].words


def arm(name, seed, start, end, flips=(0.1, 0.05)):
    """One arm of one peer `vit` with two classes."""
    measured = {"accuracy": end, "loss": 1.0}
    if flips:
        measured |= {"positive_flips": flips[0], "negative_flips": flips[1]}
    cohort = {"ensemble_accuracy": start, "oracle_accuracy": 1.0, "samples": 10}
    return Arm(
        name, seed, steps=40, seconds=1.5 + seed, start={"vit": {"accuracy": start, "loss": 2.0}, "cohort": cohort},
        end={"vit": measured, "cohort": cohort}, start_by_class={"vit": [start, None]},
        end_by_class={"vit": [end, None]}, share_taught={"vit": 0.25} if name == "mutual" else {}, best_steps={},
    )  # fmt: skip


def three():
    """Gains of 0.02, 0.03 and 0.04 over the control."""
    arms = []
    for seed, control, mutual in ((1, 0.80, 0.82), (2, 0.85, 0.88), (3, 0.78, 0.82)):
        arms += [arm("control", seed, 0.7, control, (0.2, 0.15)), arm("mutual", seed, 0.7, mutual)]
    return arms


def cells(text):
    """The row of the one peer."""
    row = next(line for line in text.splitlines() if "70.0" in line)
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_three_seeds_with_control():
    """An unpaired difference mixes the seeds' own spread into the gain's."""
    results = collect([*three()[::-1]], {"seeds": [1, 2, 3]}, CLASSES)
    peer = results["peers"]["vit"]
    assert list(results["peers"]) == ["vit"]
    assert peer["start"] == pytest.approx({"accuracy": 0.7, "loss": 2.0})
    assert peer["mutual"] == pytest.approx({"accuracy": 0.84, "loss": 1.0})
    assert peer["control"] == pytest.approx({"accuracy": 0.81, "loss": 1.0})
    assert peer["delta"] == pytest.approx({"mean": 0.03, "sd": 0.01})
    assert (peer["positive_flips"], peer["negative_flips"]) == pytest.approx((0.1, 0.05))
    assert peer["control_flips"] == pytest.approx({"positive_flips": 0.2, "negative_flips": 0.15})
    assert peer["share_taught"] == 0.25
    assert peer["by_class"]["mutual"] == [pytest.approx(0.84), None]
    assert peer["by_class"]["control"] == [pytest.approx(0.81), None]
    assert sorted(zip(*peer["per_seed"].values(), strict=True)) == [(0.82, 0.78), (0.82, 0.80), (0.88, 0.85)]
    assert (results["steps"], results["seeds"]) == (40, [1, 2, 3])
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_one_seed_without_control():
    """A delta against nothing, or an sd of one value, is a number made up."""
    results = collect([arm("mutual", 1, 0.7, 0.8)], {"seeds": [1]}, CLASSES)
    peer = results["peers"]["vit"]
    assert not {"control", "delta", "control_flips"} & set(peer)
    text = results_table(results, Path("runs/x"), CLASSES)
    assert "1 seed, 40 steps" in text
    assert cells(text) == ["vit", "70.0", "80.0", "25.0", "+10.0 −5.0"]
    assert "control" not in text.splitlines()[2]


def test_one_seed_with_control_claims_nothing():
    """One seed has no spread, so no verdict."""
    results = collect(three()[:2], {"seeds": [1]}, CLASSES)
    assert results["peers"]["vit"]["delta"] == {"mean": pytest.approx(0.02), "sd": None}
    assert "+2.00 (1 seed)" in results_table(results, Path("runs/x"), CLASSES)


def test_table_names_folders_and_the_next_command():
    """A table that is cut at the terminal's width loses the figure that matters."""
    text = results_table(collect(three(), {"seeds": [1, 2, 3]}, CLASSES), Path("runs/x"), CLASSES)
    assert cells(text) == ["vit", "70.0", "81.0", "84.0", "+3.00 ± 1.00 (better)", "25.0", "+10.0 −5.0"]
    assert "3 seeds, 40 steps" in text
    assert "runs/x/vit" in text
    assert "hf-mutual-kd push runs/x" in text.splitlines()[-1]


def test_flips_that_were_not_measured_are_left_out():
    """A run must not end in an error after hours for want of a figure."""
    results = collect([arm("mutual", 1, 0.7, 0.8, flips=None)], {"seeds": [1]}, CLASSES)
    assert results["peers"]["vit"]["positive_flips"] is None
    assert "flips" not in results_table(results, Path("runs/x"), CLASSES)


def other_arm(name, seed, metric, end, **more):
    """One arm of one peer of another task, without flips and classes."""
    cohort = {f"ensemble_{metric}": end, "samples": 10}
    return Arm(name, seed, steps=40, seconds=1.0, start={"seg": {metric: 0.25} | more, "cohort": cohort},
               end={"seg": {metric: end} | more, "cohort": cohort})  # fmt: skip


@pytest.mark.parametrize(
    ("task", "metric", "title", "row"),
    [
        ("semantic-segmentation", "mIoU", "On the test split: mIoU in %, 3 seeds, 40 steps",
         "| seg | 25.0 | 30.0 | 32.0 | +2.00 ± 0.00 (better) | 0.0 |"),
        ("video-saliency", "CC", "On the test split: CC, 3 seeds, 40 steps",
         "| seg | 0.250 | 0.300 | 0.320 | +0.020 ± 0.000 (better) | 0.0 |"),
    ],
)  # fmt: skip
def test_every_task_is_compared_by_its_own_metric(task, metric, title, row):
    """A CC of 0.32 shown as 32 %, differences of a metric that does not decide, or a column of dashes."""
    arms = [
        other_arm(name, seed, metric, end, loss=1.0)
        for seed in (1, 2, 3)
        for name, end in (("control", 0.3), ("mutual", 0.32))
    ]
    results = collect(arms, {"task": task, "seeds": [1, 2, 3]}, TASKS[task].words)
    peer = results["peers"]["seg"]
    assert peer["per_seed"] == {"mutual": [0.32] * 3, "control": [0.3] * 3}
    assert peer["delta"]["mean"] == pytest.approx(0.02)
    assert title in results_table(results, Path("runs/x"), TASKS[task].words)
    table = markdown(results, TASKS[task].words)
    assert row in table
    assert table.splitlines()[0] == "| peer | start | control | mutual | Δ against control | share taught |"


@pytest.mark.parametrize(
    ("mean", "sd", "seeds", "said"),
    [
        (0.03, 0.01, 3, "better"), (-0.03, 0.01, 3, "worse"), (0.01, 0.01, 3, "within noise"),
        (-0.0248, 0.01, 3, "within noise"), (0.0249, 0.01, 3, "better"), (0.0, 0.0, 3, "within noise"),
        (0.01, 0.0, 2, "2 seeds"), (0.5, None, 1, "1 seed"),
    ],
)  # fmt: skip
def test_verdict_is_a_paired_t_test(mean, sd, seeds, said):
    """A gain within the noise that is called better is the claim this table exists to prevent."""
    assert verdict({"mean": mean, "sd": sd}, seeds) == said
    assert difference({"mean": mean, "sd": sd}, seeds, CLASSES).endswith(f"({said})")


def test_differences_are_in_points():
    """Points against percent is a factor that nobody sees."""
    assert difference({"mean": 0.0079, "sd": 0.0004}, 3, CLASSES) == "+0.79 ± 0.04 (better)"
    assert difference({"mean": -0.012, "sd": None}, 1, CLASSES) == "-1.20 (1 seed)"
    assert difference({"mean": -0.012, "sd": 0.0004}, 3, VIDEO) == "-0.012 ± 0.000 (worse)"
