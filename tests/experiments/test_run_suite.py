"""Suites: what they train, what they share, how they go on, and what their table says."""

import csv
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import write_place

from hf_mutual_kd import (
    TASKS,
    ConfigError,
    Experiment,
    OutputFolderError,
    RecipeOptions,
    Splits,
    SuiteArm,
    TransferOptions,
    make_task,
)
from hf_mutual_kd.cli.main import main
from hf_mutual_kd.config.fields import GROUPS
from hf_mutual_kd.config.options import names_in
from hf_mutual_kd.config.task_options import own_fields
from hf_mutual_kd.experiments.launch import WAYS
from hf_mutual_kd.experiments.run_suite import ArmFailed, is_finished, run_arm, run_suite
from hf_mutual_kd.experiments.suite import read_suite
from hf_mutual_kd.experiments.suite_report import FinishedArm, compare
from hf_mutual_kd.reports.results import Arm
from hf_mutual_kd.training.start_cache import StartCache

ROOT = Path(__file__).parents[2]
BASE = """
seeds: [0, 1]
base:
  peers: {{vit: {place}/vit, cnn: {place}/cnn, cnx: {place}/cnx}}
  dataset: {place}/data
  max_steps: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  eval_strategy: "no"
  load_best_model_at_end: false
  augment: false
  use_cpu: true
  report_to: none
"""
SETTINGS = """settings:
  best:
  mean: {teacher_rule: mean, teacher_source: frozen}
  free: {labels: false}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with saved peers and a saved data set."""
    return write_place(tmp_path_factory.mktemp("place"), train=24, validation=6, test=9)


def write(folder: Path, place: Path, text: str = SETTINGS, base: str = BASE) -> str:
    path = folder / "suite.yaml"
    path.write_text(base.format(place=place) + text, encoding="utf-8")
    return str(path)


def names(path: str) -> list[str]:
    return [arm.name for arm in read_suite(path).arms]


def test_settings_share_the_control_of_their_seed(place, tmp_path):
    """A control per setting doubles the cost; one for settings that train otherwise compares the wrong things."""
    path = write(tmp_path, place)
    arms = {arm.name: arm for arm in read_suite(path, str(tmp_path / "out")).arms}
    controls = [name for name in arms if name.startswith("control/")]
    assert len(controls) == 2
    assert len(arms) == 2 + 3 * 2
    for seed in (0, 1):
        best, mean, free = (arms[f"{setting}/all/seed-{seed}"] for setting in ("best", "mean", "free"))
        assert best.control == mean.control
        assert best.control.endswith(f"seed-{seed}")
        assert free.control is None
        control = arms[best.control].recipe.config.resolved()
        assert (control.transfer_weight, control.seed, control.teacher_rule) == (0.0, seed, "best")
        assert best.recipe.config.learning_rate == control.learning_rate == 1e-2
        assert mean.recipe.config.teacher_source == "frozen"
        assert not mean.recipe.options.control
    assert list(arms)[:2] == controls
    other = write(tmp_path, place, "settings:\n  a: {temperature: 2}\n  b: {learning_rate: 1e-3, temperature: 2}\n")
    assert len({arm.control for arm in read_suite(other).arms if arm.seed == 0 and arm.control}) == 2


def test_pairs_are_drawn_once_for_all_settings(place, tmp_path):
    """Settings that are judged on other pairs, or pairs that change from call to call."""
    path = write(tmp_path, place, "pairs: {draw: 2, seed: 3}\nsettings:\n  best:\n  mean: {teacher_rule: mean}\n")
    found = names(path)
    assert found == names(path)
    arms = read_suite(path).arms
    drawn = {setting: {arm.pair for arm in arms if arm.setting == setting} for setting in ("best", "mean")}
    assert drawn["best"] == drawn["mean"]
    assert len(drawn["best"]) == 2
    for arm in arms:
        assert list(arm.recipe.options.peers) == list(arm.pair)
    assert len([arm for arm in arms if arm.setting == "control"]) == 2 * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settigns: {}\nsettings:\n  a:", "suite.yaml:14: a suite has no settigns (nearest: settings)"),
        ("settings:\n  a: {temprature: 2}", "suite.yaml:15: unknown option temprature (nearest: temperature)"),
        ("settings:\n  a: {temperature: warm}", 'temperature must be a number, got "warm"'),
        ("settings:\n  a: {teacher_rule: bset}", "teacher_rule must be one of best, mean, all, fixed:NAME"),
        ("settings:\n  a: {seed: 3}", "suite.yaml:15: seed is the suite's own"),
        ("settings:\n  ../a: {}", "is no name of a setting"),
        ("settings:\n  control: {}", "is no name of a setting"),
        ("settings: {}", "settings is empty"),
        ("", "settings must be a mapping"),
        ("settings:\n  a: [1]", "a must be a mapping"),
        ("pairs: {draw: 4}\nsettings:\n  a:", "at most 3, the pairs of the 3 peers in base, got 4"),
        ("pairs: {drew: 4}\nsettings:\n  a:", "pairs has no drew (nearest: draw)"),
    ],
)
def test_suites_are_strict(place, tmp_path, text, message):
    """A typing error that is found in the ninth hour."""
    with pytest.raises(ConfigError) as error:
        read_suite(write(tmp_path, place, text))
    assert message in str(error.value)


def test_shipped_suites_can_be_read(monkeypatch):
    """A shipped suite with an option that is gone."""
    monkeypatch.chdir(ROOT)
    suites = {path.stem: read_suite(path) for path in sorted((ROOT / "recipes" / "suites").glob("*.yaml"))}
    assert set(suites) == {
        "headline",
        "teachers",
        "temperature_weight",
        "n_peers",
        "label_free",
        "few_labels",
        "weak_with_strong",
        "pairs",
    }
    assert len({arm.pair for arm in suites["pairs"].arms}) >= 20
    assert len({peer for arm in suites["pairs"].arms for peer in arm.pair}) >= 7
    assert {len(arm.recipe.options.peers) for arm in suites["n_peers"].arms} == {2, 3, 4, 5, 6}
    for name, suite in suites.items():
        assert len(suite.seeds) >= 3 or name == "pairs"


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    path = write(folder, place, SETTINGS, BASE.replace("[0, 1]", "[0]"))
    fills, fill = [], StartCache.fill
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StartCache, "fill", lambda *given, **more: fills.append(given) or fill(*given, **more))
        shown = run_suite(path, output_dir=str(folder / "out"))
    # Two of the settings are taught by frozen copies.
    assert len(fills) == 1
    assert not (folder / "out" / ".starts").exists()
    return path, folder / "out", shown


def test_a_suite_leaves_its_table_in_four_forms(finished):
    """A table on a terminal that nobody can paste, compute with or show."""
    _, out, shown = finished
    table = list(csv.DictReader((out / "comparison.csv").open()))
    assert [row["setting"] for row in table] == ["best", "mean", "free"]
    assert [row["against"] for row in table] == ["control", "control", "start"]
    peers = list(csv.DictReader((out / "peers.csv").open()))
    assert len(peers) == 3 * 3
    for row in table:
        deltas = [float(peer["delta"]) for peer in peers if peer["setting"] == row["setting"]]
        assert float(row["delta"]) == pytest.approx(sum(deltas) / 3)
        assert float(row["seconds"]) > 0
        assert float(row["peak_memory_mb"]) > 50
    assert all(peer["control"] == peer["start"] for peer in peers if peer["setting"] == "free")
    assert any(peer["ensemble_minus_best_on_validation"] for peer in peers)
    markdown = (out / "comparison.md").read_text()
    assert "| mean | control |" in markdown
    assert "│ mean    │ control │" in shown
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("model*.safetensors"))


def test_a_suite_goes_on_where_it_stopped(finished, tmp_path):
    """Hours that are trained again, half an arm that counts as whole, or old arms under new options."""
    path, out, _ = finished
    suite = read_suite(path, str(out))
    assert all(is_finished(suite, arm) for arm in suite.arms)
    (arm,) = (arm for arm in suite.arms if arm.name == "mean/all/seed-0")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("summary.json")}
    summary = (out / arm.name / "summary.json").read_bytes()
    (out / arm.name / "cost.json").unlink()
    assert not is_finished(suite, arm)
    run_suite(path, output_dir=str(out))
    changed = [file for file, stamp in before.items() if file.stat().st_mtime_ns != stamp]
    assert changed == [out / arm.name / "summary.json"]
    again, once = json.loads(changed[0].read_bytes()), json.loads(summary)
    assert again["end"] == once["end"]
    other = tmp_path / "suite.yaml"
    other.write_text(Path(path).read_text().replace("teacher_rule: mean,", "teacher_rule: mean, temperature: 2,"))
    with pytest.raises(OutputFolderError, match="trained with temperature None, the suite now says 2.0"):
        run_suite(str(other), output_dir=str(out))


def test_arms_in_processes_of_their_own(finished, place, tmp_path, capsys):
    """A process that fails unseen, or that trains something else than the one process would."""
    _, out, _ = finished
    alone = write(tmp_path, place, "settings:\n  free: {labels: false}\n", BASE.replace("[0, 1]", "[0]"))
    run_suite(alone, processes=2, output_dir=str(tmp_path / "out"))
    folders = [folder / "free/all/seed-0" for folder in (out, tmp_path / "out")]
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in folders)
    assert one["end"] == other["end"]
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        run_suite(alone, processes=0)
    assert main(["compare", "--config", alone, "--only", "free/all/seed-7"]) == 2
    assert "has no arm 'free/all/seed-7'" in capsys.readouterr().err


def test_a_failing_process_is_reported_with_its_last_words(finished, place, tmp_path, monkeypatch):
    """An arm without data among finished ones, and a table all the same."""
    path = write(tmp_path, place)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ArmFailed, match="seed-0 failed"):
        run_suite(path, processes=2, output_dir=str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("comparison.*"))


OTHER = {
    bool: lambda old: not old,
    int: lambda old: old + 1,
    float: lambda old: old + 0.25,
    str: lambda old: old + "x",
}
"""Another value than the default, by the type of that."""


@pytest.mark.parametrize(
    ("task", "item"),
    [
        *(("image-classification", item) for kind in (RecipeOptions, TransferOptions) for item in fields(kind)),
        *((task, item) for task, way in WAYS.items() for item in own_fields(way.options)),
    ],
    ids=lambda given: getattr(given, "name", given),
)
def test_arms_share_rows_only_where_every_option_of_the_data_is_equal(task, item, place, tmp_path, monkeypatch):
    """Settings that differ in eval_frame_step got each other's rows: the list of names had forgotten it."""
    assert item.metadata["group"] in GROUPS
    loads = []
    monkeypatch.setattr(Experiment, "_load_data", lambda arm: loads.append(arm) or Splits(None, None, None, None, {}))
    monkeypatch.setattr("hf_mutual_kd.experiments.run_suite._splits", {})
    recipe = read_suite(write(tmp_path, place)).arms[0].recipe
    arm = SuiteArm(make_task(task), RecipeOptions(peers=recipe.options.peers), config=recipe.config)
    arm._load_data()
    holder = arm.options if hasattr(arm.options, item.name) else arm.config
    old = getattr(holder, item.name)
    setattr(holder, item.name, OTHER[type(old)](old) if type(old) in OTHER else ["another"])
    arm._load_data()
    assert len(loads) == (2 if item.metadata["group"] == "data" else 1)


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("image-classification", "embedded/fashion_mnist"),
        ("semantic-segmentation", "embedded_segmentation/land_cover"),
        ("video-saliency", "embedded_saliency/synthetic_gaze"),
    ],
)
def test_loading_rows_reads_no_option_of_another_group(task, data):
    """An option that says which rows there are but is no `data`: rows would be shared where it differs."""
    read = set()

    class Watched(TASKS[task].options_class):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    made = TASKS[task](Watched(dataset=str(ROOT / "recipes" / data), max_train_samples=8, max_eval_samples=8))
    read.clear()
    made.load_splits(0, True)
    chosen = {name for name in read if name in Watched.__dataclass_fields__}
    assert "dataset" in chosen
    assert chosen <= set(names_in("data", Watched))


def made_up(suite, values):
    """Finished arms with accuracies `{arm name: {peer: (start, end)}}`."""
    arms = []
    for arm in suite.arms:
        peers = values(arm)
        start = {name: {"accuracy": pair[0]} for name, pair in peers.items()}
        flips = {"positive_flips": 0.2, "negative_flips": 0.1}
        end = {name: {"accuracy": pair[1], **flips} for name, pair in peers.items()}
        seconds = 10.0 if arm.setting == "control" else 15.0
        arms.append(FinishedArm(arm, Arm(arm.setting, arm.seed, 5, seconds, start, end), 2_000_000))
    return arms


def test_the_comparison_by_hand(place, tmp_path):
    """A spread over peers that is sold as one over seeds, or a control of another seed."""
    suite = read_suite(write(tmp_path, place, "settings:\n  best:\n  held: {peers.cnx.frozen: true}\n"))

    def values(arm):
        if arm.setting == "control":
            return {"vit": (0.5, 0.60 + 0.1 * arm.seed), "cnn": (0.5, 0.55), "cnx": (0.5, 0.50)}
        return {"vit": (0.5, 0.62 + 0.1 * arm.seed), "cnn": (0.5, 0.54 + 0.04 * arm.seed), "cnx": (0.5, 0.45)}

    (best, held), rows = compare(suite, made_up(suite, values))
    seeds = [(0.02 - 0.01 - 0.05) / 3, (0.02 + 0.03 - 0.05) / 3]
    assert best.delta.mean == pytest.approx(sum(seeds) / 2)
    assert best.delta.sd == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5)
    assert best.peers == pytest.approx({"vit": 0.02, "cnn": 0.01, "cnx": -0.05})
    assert (best.above_control, best.above_start) == ((2, 3), (2, 3))
    assert best.flips == pytest.approx((0.2, 0.1))
    assert (best.seconds, best.slower, best.peak_memory) == (15.0, 1.5, 2.0)
    assert set(held.peers) == {"vit", "cnn"}  # a frozen peer learns nothing that could be compared
    assert len(rows) == 2 * 3 + 2 * 2


def test_pairs_count_a_peer_once_per_pair(place, tmp_path):
    """A success rate over peers in place of one over peers in pairs."""
    suite = read_suite(write(tmp_path, place, "pairs: {draw: 3}\nsettings:\n  best:\n"))

    def values(arm):
        gain = {"control": 0.0}.get(arm.setting, 0.1 if "vit" in arm.pair else -0.1)
        return dict.fromkeys(arm.pair, (0.5, 0.6 + gain))

    (best,), _ = compare(suite, made_up(suite, values))
    assert best.above_control == (4, 6)
    assert best.above_start == (4, 6)
    assert "vit of vit+cnn" in best.peers


def test_help_needs_no_torch():
    """A command line that takes seconds to say what it does."""
    code = "import sys, hf_mutual_kd.cli.main as c\ntry: c.main(['compare', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "--processes" in done.stdout


def test_one_arm_by_itself_is_what_the_suite_trains(place, tmp_path):
    """An arm that is overwritten in part keeps what an interrupted one left."""
    suite = read_suite(write(tmp_path, place), str(tmp_path / "out"))
    arm = next(arm for arm in suite.arms if arm.setting == "best")
    left = tmp_path / "out" / arm.name / "checkpoint-1"
    left.mkdir(parents=True)
    # The first that an arm writes.
    record = {"task": "image-classification", "peers": dict.fromkeys(arm.recipe.options.peers, {})}
    (left.parent / "cohort.json").write_text(json.dumps(record))
    run_arm(suite, arm)
    assert is_finished(suite, arm)
    assert not left.exists()
