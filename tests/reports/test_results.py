"""What the arms of a run found, by hand."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_mutual_kd import TASKS, Difference, OutputFolderError, markdown, verdict
from hf_mutual_kd.files import read_json
from hf_mutual_kd.reports.closing_table import difference, headline, interval_note, results_table
from hf_mutual_kd.reports.results import Arm, Results, collect
from hf_mutual_kd.reports.results_section import tiles
from hf_mutual_kd.reports.samples import Samples

CLASSES, VIDEO = TASKS["image-classification"].words, TASKS["video-saliency"].words
TAUGHT = {"labelled": {"vit": 1, "<mean>": 0, "nobody": 3}, "unlabelled": {"vit": 0, "<mean>": 12, "nobody": 0}}


def arm(name, seed, start, end, flips=(0.1, 0.05)):
    """One arm of one peer `vit` with two classes."""
    measured = {"accuracy": end, "loss": 1.0}
    if flips:
        measured |= {"positive_flips": flips[0], "negative_flips": flips[1]}
    cohort = {"ensemble_accuracy": start, "oracle_accuracy": 1.0, "samples": 10}
    return Arm(
        name,
        seed,
        steps=40,
        seconds=1.5 + seed,
        start={"vit": {"accuracy": start, "loss": 2.0}, "cohort": cohort},
        end={"vit": measured, "cohort": cohort},
        start_by_class={"vit": [start, None]},
        end_by_class={"vit": [end, None]},
        teachers=TAUGHT if name == "mutual" else {},
        best_steps={},
    )


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


def test_three_seeds_with_control(tmp_path):
    """An unpaired difference mixes the seeds' own spread into the gain's."""
    results = collect([*three()[::-1]], {"seeds": [1, 2, 3]}, CLASSES)
    peer = results.peers["vit"]
    assert list(results.peers) == ["vit"]
    assert results.arms == ["start", "control", "mutual"]
    assert peer.arms["start"].metrics == pytest.approx({"accuracy": 0.7, "loss": 2.0})
    assert peer.arms["mutual"].metrics == pytest.approx({"accuracy": 0.84, "loss": 1.0})
    assert peer.arms["control"].metrics == pytest.approx({"accuracy": 0.81, "loss": 1.0})
    assert asdict(peer.differences["control"]["accuracy"]) == pytest.approx(
        {"mean": 0.03, "sd": 0.01, "low": None, "high": None}
    )
    assert peer.delta("start", "accuracy").mean == pytest.approx(0.14)
    mutual, control = peer.arms["mutual"], peer.arms["control"]
    assert (mutual.positive_flips, mutual.negative_flips) == pytest.approx((0.1, 0.05))
    assert (control.positive_flips, control.negative_flips) == pytest.approx((0.2, 0.15))
    assert results.teachers["unlabelled"] == {"vit": 0, "<mean>": 36, "nobody": 0}
    assert mutual.by_class == [pytest.approx(0.84), None]
    assert control.by_class == [pytest.approx(0.81), None]
    assert sorted(zip(mutual.per_seed, control.per_seed, strict=True)) == [(0.82, 0.78), (0.82, 0.80), (0.88, 0.85)]
    assert (results.steps, results.seeds) == (40, [1, 2, 3])
    assert results.ensemble is None
    results.write(tmp_path)
    assert Results.read(tmp_path) == results


def test_one_seed_without_control():
    """A delta against nothing, or an sd of one value, is a number made up."""
    results = collect([arm("mutual", 1, 0.7, 0.8)], {"seeds": [1]}, CLASSES)
    assert list(results.peers["vit"].differences) == ["start"]
    text = results_table(results, Path("runs/x"), CLASSES)
    assert "1 seed, 40 steps" in text
    assert cells(text) == ["vit", "70.0", "80.0", "+10.00 (1 seed)", "25.0", "0.0", "+10.0 −5.0"]
    assert "Δ against start" in text
    assert "Without a control nobody knows" in text


def test_one_seed_with_control_claims_nothing():
    """One seed of which no single outcome was kept has no spread, so no verdict."""
    results = collect(three()[:2], {"seeds": [1]}, CLASSES)
    assert asdict(results.peers["vit"].delta("control", "accuracy")) == {
        "mean": pytest.approx(0.02),
        "sd": None,
        "low": None,
        "high": None,
    }
    assert "+2.00 (1 seed)" in results_table(results, Path("runs/x"), CLASSES)


def kept(gains, rows=100):
    """What an arm kept of rows of which so many were gained and lost since the start."""
    start, after = np.zeros((rows, 2, 6)), np.zeros((rows, 2, 6))
    start[:, :, 3:] = after[:, :, 3:] = 1
    start[rows // 2 :, :, 0] = 1
    after[:, 0, 0] = start[:, 0, 0]
    after[: gains[0], 0, 0], after[rows - gains[1] :, 0, 0] = 1, 0
    phases = [{"sample/id": np.arange(rows), "unit/id": np.arange(rows), "unit/sums": sums} for sums in (start, after)]
    return Samples(["vit"], *phases, {"outcomes": {"statistic": "means", "metrics": ["accuracy", "top5", "loss"]}})


def test_differences_have_an_interval_over_rows():
    """A verdict from the spread over seeds alone, which says nothing of the test rows."""
    samples = {"mutual": [kept((30, 10))] * 3, "control": [kept((20, 10))] * 3}
    results = collect(three(), {"seeds": [1, 2, 3]}, CLASSES, samples)
    delta = results.peers["vit"].delta("control", "accuracy")
    # Of 100 rows 10 more are gained than in the control, in each seed: standard error 0.03.
    assert (delta.low, delta.high) == (pytest.approx(0.041, abs=0.012), pytest.approx(0.159, abs=0.012))
    assert results.peers["vit"].delta("start", "accuracy").low == pytest.approx(0.2 - 1.96 * 0.06, abs=0.015)
    assert results.units == 100
    assert verdict(delta, 3) == "better"
    assert difference(delta, 3, CLASSES) == f"+3.00 [{100 * delta.low:+.2f}, {100 * delta.high:+.2f}] (better)"
    assert interval_note(results, CLASSES).startswith("In brackets: 95 % interval over 100 test samples and 3 seeds")
    one = collect(three()[:2], {"seeds": [1]}, CLASSES, {name: parts[:1] for name, parts in samples.items()})
    assert verdict(one.peers["vit"].delta("control", "accuracy"), 1) == "better"
    assert "one seed says nothing of how trainings differ" in interval_note(one, CLASSES)


def test_arms_that_kept_nothing_have_no_interval():
    """An interval of one seed of three under a difference of all."""
    samples = {"mutual": [kept((30, 10)), None, kept((30, 10))], "control": [kept((20, 10))] * 3}
    results = collect(three(), {"seeds": [1, 2, 3]}, CLASSES, samples)
    assert results.peers["vit"].delta("control", "accuracy").low is None
    assert interval_note(results, CLASSES) == "±: spread (standard deviation) over 3 seeds on one test set."


def test_the_mean_of_all_is_a_row_and_a_teacher():
    """The headline's teacher that no table shows, and a model that a user may prefer."""
    arms = []
    for name, end in (("control", 0.8), ("mutual", 0.82)):
        one = arm(name, 1, 0.7, end)
        for phase in (one.start, one.end):
            phase["cnn"] = dict(phase["vit"])
        one.end["cohort"] = {"ensemble_accuracy": end + 0.05, "samples": 10}
        arms.append(one)
    results = collect(arms, {"seeds": [1]}, CLASSES)
    assert results.ensemble.delta("control", "accuracy").mean == pytest.approx(0.02)
    row = markdown(results, CLASSES).splitlines()[-1]
    assert row == "| mean of all | 70.0 | 85.0 | 87.0 | +2.00 (1 seed) | 0.0 | 100.0 | – |"
    assert "The mean of all peers (87.0) is above the best of them (82.0)." in results_table(
        results, Path("x"), CLASSES
    )


def test_further_arms_are_columns_and_references():
    """A stage of training that is measured and not shown."""
    arms = [arm("adapted", 1, 0.7, 0.75), *three()[:2]]
    results = collect(arms, {"seeds": [1]}, CLASSES)
    assert results.arms == ["start", "adapted", "control", "mutual"]
    assert results.peers["vit"].delta("adapted", "accuracy").mean == pytest.approx(0.07)
    assert markdown(results, CLASSES).startswith("| peer | start | adapted | control | mutual | Δ against control |")


def test_tiles_and_table_show_one_difference():
    """A page whose tiles praise a gain over the control where its table says that self-training alone was better."""
    arms = [*three(), *(arm("self", seed, 0.7, 0.9) for seed in (1, 2, 3))]
    kept = {"vit": [{"what": "mutual", "alpha": 1.0, "way": "mean"}] * 3}
    results = collect(arms, {"seeds": [1, 2, 3], "kept": kept}, CLASSES)
    run = SimpleNamespace(results=results, words=CLASSES)
    (tile,) = tiles(SimpleNamespace(run=run))
    assert "-6.00 ± 3.46" in markdown(results, CLASSES)
    assert (tile["delta"], tile["against"], tile["mark"]) == ("-6.00 ± 3.46 points", "best control", "flat")
    assert "vit differs from its best control by no more than noise (-6.00 points)" in headline(results, CLASSES)


def test_table_names_folders_and_the_next_command():
    """A table that is cut at the terminal's width loses the figure that matters."""
    text = results_table(collect(three(), {"seeds": [1, 2, 3]}, CLASSES), Path("runs/x"), CLASSES)
    shown = ["vit", "70.0", "81.0", "84.0", "+3.00 ± 1.00 (better)", "25.0", "0.0", "+10.0 −5.0"]
    assert cells(text) == shown
    assert "3 seeds, 40 steps" in text
    assert "runs/x/vit" in text
    assert "hf-mutual-kd push runs/x" in text.splitlines()[-1]


def test_flips_that_were_not_measured_are_left_out():
    """A run must not end in an error after hours for want of a figure."""
    results = collect([arm("mutual", 1, 0.7, 0.8, flips=None)], {"seeds": [1]}, CLASSES)
    assert results.peers["vit"].arms["mutual"].positive_flips is None
    assert "flips" not in results_table(results, Path("runs/x"), CLASSES)


def other_arm(name, seed, metric, end, **more):
    """One arm of one peer of another task, without flips and classes."""
    cohort = {f"ensemble_{metric}": end, "samples": 10}
    return Arm(
        name,
        seed,
        steps=40,
        seconds=1.0,
        start={"seg": {metric: 0.25} | more, "cohort": cohort},
        end={"seg": {metric: end} | more, "cohort": cohort},
    )


@pytest.mark.parametrize(
    ("task", "metric", "title", "row"),
    [
        (
            "semantic-segmentation",
            "mIoU",
            "On the test split: mIoU in %, 3 seeds, 40 steps",
            "| seg | 25.0 | 30.0 | 32.0 | +2.00 ± 0.00 (better) |",
        ),
        (
            "video-saliency",
            "CC",
            "On the test split: CC, 3 seeds, 40 steps",
            "| seg | 0.250 | 0.300 | 0.320 | +0.020 ± 0.000 (better) |",
        ),
    ],
)
def test_every_task_is_compared_by_its_own_metric(task, metric, title, row):
    """A CC of 0.32 shown as 32 %, differences of a metric that does not decide, or a column of dashes."""
    arms = [
        other_arm(name, seed, metric, end, loss=1.0)
        for seed in (1, 2, 3)
        for name, end in (("control", 0.3), ("mutual", 0.32))
    ]
    results = collect(arms, {"task": task, "seeds": [1, 2, 3]}, TASKS[task].words)
    peer = results.peers["seg"]
    assert (peer.arms["mutual"].per_seed, peer.arms["control"].per_seed) == ([0.32] * 3, [0.3] * 3)
    assert peer.delta("control", metric).mean == pytest.approx(0.02)
    assert title in results_table(results, Path("runs/x"), TASKS[task].words)
    table = markdown(results, TASKS[task].words)
    assert row in table
    assert table.splitlines()[0] == "| peer | start | control | mutual | Δ against control |"


@pytest.mark.parametrize(
    ("mean", "sd", "seeds", "said"),
    [
        (0.03, 0.01, 3, "better"),
        (-0.03, 0.01, 3, "worse"),
        (0.01, 0.01, 3, "within noise"),
        (-0.0248, 0.01, 3, "within noise"),
        (0.0249, 0.01, 3, "better"),
        (0.0, 0.0, 3, "within noise"),
        (0.01, 0.0, 2, "2 seeds"),
        (0.5, None, 1, "1 seed"),
    ],
)
def test_without_an_interval_the_verdict_is_a_paired_t_test(mean, sd, seeds, said):
    """A gain within the noise that is called better is the claim this table exists to prevent."""
    assert verdict(Difference(mean, sd), seeds) == said
    assert difference(Difference(mean, sd), seeds, CLASSES).endswith(f"({said})")


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.001, 0.02, "better"), (-0.02, -0.001, "worse"), (-0.001, 0.02, "within noise")]
)
def test_the_verdict_comes_from_the_interval(low, high, said):
    """A verdict that the printed interval contradicts."""
    assert verdict(Difference(0.01, 0.0, low, high), 3) == said


def test_differences_are_in_points():
    """Points against percent is a factor that nobody sees."""
    assert difference(Difference(0.0079, 0.0004), 3, CLASSES) == "+0.79 ± 0.04 (better)"
    assert difference(Difference(-0.012), 1, CLASSES) == "-1.20 (1 seed)"
    assert difference(Difference(-0.012, 0.0004), 3, VIDEO) == "-0.012 ± 0.000 (worse)"
    assert difference(Difference(0.0079, 0.0004, 0.002, 0.0138), 3, CLASSES) == "+0.79 [+0.20, +1.38] (better)"


def found(deltas):
    """Results of peers with these differences to their control."""
    arms = [arm("control", 1, 0.7, 0.8), arm("mutual", 1, 0.7, 0.8)]
    for one in arms:
        for phase in (one.start, one.end):
            vit = phase.pop("vit")
            phase |= {name: dict(vit) for name in deltas}
    results = collect(arms, {"seeds": [1]}, CLASSES)
    for name, (mean, low, high) in deltas.items():
        results.peers[name].differences["control"]["accuracy"] = Difference(mean, None, low, high)
    return results


@pytest.mark.parametrize(
    ("deltas", "said"),
    [
        (
            {"a": (0.01, 0.005, 0.015), "b": (0.02, 0.01, 0.03), "c": (0.008, 0.001, 0.015)},
            "All three peers beat their control, by 0.80 to 2.00 points",
        ),
        (
            {"a": (0.01, 0.005, 0.015), "b": (-0.02, -0.03, -0.01), "c": (0.001, -0.01, 0.012)},
            "a beats its control, by 1.00 points; b fell below its control, by 2.00 points; "
            "c differs from its control by no more than noise (+0.10 points)",
        ),
        (
            {"a": (-0.01, -0.02, 0.01), "b": (0.01, -0.01, 0.02)},
            "Both peers differ from their control by no more than noise (-1.00 to +1.00 points)",
        ),
        ({"a": (0.01, None, None)}, "a is +1.00 points above its control, which 1 seed cannot tell from noise"),
    ],
)
def test_the_headline_is_made_from_the_results(deltas, said):
    """Closing words that praise a run which gained nothing."""
    assert headline(found(deltas), CLASSES) == said


def test_a_damaged_record_of_an_arm_is_one_error(tmp_path):
    """A traceback after an edit of summary.json."""
    (tmp_path / "summary.json").write_text('{"name": "mutual", "seed": "x"}')
    with pytest.raises(OutputFolderError, match=r"summary\.json is damaged: at seed"):
        read_json(tmp_path / "summary.json", Arm)
