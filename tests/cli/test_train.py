"""`hf-mutual-kd train`: in the package, from any folder, in several processes, and from a wheel."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from recipe_run import ROOT, argv, main, place  # noqa: F401 - a fixture
from safetensors.torch import load_file

from hf_mutual_kd import ConfigError
from hf_mutual_kd.config.places import find_config
from hf_mutual_kd.config.recipe import parse_recipe
from hf_mutual_kd.experiments.launch import WAYS, load_config_class, train

SHORT = [
    "--max_steps",
    "2",
    "--max_train_samples",
    "64",
    "--max_eval_samples",
    "24",
    "--seeds",
    "0",
    "--control",
    "false",
]
SHORT += ["--report_to", "none", "--pre_flight", "false", "--disable_tqdm", "true", "--use_cpu"]


def test_options_of_another_task_are_unknown(capsys):
    """`--crop_size` was accepted by classification, where it does nothing."""
    with pytest.raises(ConfigError, match="unknown option crop_size: an option of semantic-segmentation"):
        train("image-classification", ["--crop_size", "64"])
    with pytest.raises(ConfigError, match="unknown option eval_frame_step"):
        train("semantic-segmentation", ["--eval_frame_step", "2"])
    for task, own, others in (
        ("semantic-segmentation", "crop_size", "eval_frame_step"),
        ("video-saliency", "eval_frame_step", "crop_size"),
    ):
        with pytest.raises(SystemExit):
            train(task, ["--help-all"])
        shown = capsys.readouterr().out
        assert f"--{own} " in shown
        assert f"--{others} " not in shown


def test_help_is_short_and_help_all_is_whole(capsys):
    """Sixty options before the one that is looked for."""
    shown = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            train("image-classification", [word])
        shown[word] = capsys.readouterr().out
    assert "--teacher_rule " in shown["--help"]
    assert "--gate_learning_rate " not in shown["--help"]
    assert "--gate_learning_rate " in shown["--help-all"]
    assert "--help-all shows all options" in shown["--help"]
    assert len(shown["--help"].splitlines()) < 80


def test_a_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    """A name that only works from the repository's root."""
    monkeypatch.chdir(tmp_path)
    assert find_config("imagenet_pit_coat").is_file()
    for way in WAYS.values():
        assert way.embedded is None or find_config(way.embedded).is_file()
    with pytest.raises(ConfigError, match=r"imagenet_pit_coats: .*\(nearest: imagenet_pit_coat\)"):
        find_config("imagenet_pit_coats")
    (tmp_path / "embedded").write_text("temperature: 2")
    assert find_config("embedded") == Path("embedded")


def read(folder: Path, text: str, *words: str):
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "c.yaml").write_text(text)
    from hf_mutual_kd import RecipeOptions, TransferOptions

    classes = (RecipeOptions, TransferOptions)
    return parse_recipe(["--config", "mine/c.yaml", "--output_dir", "o", *words], classes, load_config_class)


def test_paths_in_a_configuration_are_relative_to_it(tmp_path, monkeypatch):
    """A file that works only from one folder; or a folder of another place that happens to have the same name."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine/rows", "mine/peers/a", "here", "both", "mine/both"):
        (tmp_path / name).mkdir(parents=True)
    text = "dataset: {}\npeers: {{a: peers/a, b: {{source: google/vit, processor: peers/a}}}}"
    options = read(tmp_path, text.format("rows")).options
    assert options.dataset == "mine/rows"
    assert (options.peers["a"].source, options.peers["b"].source) == ("mine/peers/a", "google/vit")
    assert options.peers["b"].processor == "mine/peers/a"
    assert read(tmp_path, text.format("here")).options.dataset == "here"
    assert read(tmp_path, text.format("rows/*.parquet")).options.dataset == "mine/rows/*.parquet"
    assert read(tmp_path, text.format("dhf1k:rows")).options.dataset == "dhf1k:mine/rows"
    assert read(tmp_path, text.format("./both")).options.dataset == "mine/both"
    assert read(tmp_path, text.format("../both")).options.dataset == "both"
    assert read(tmp_path, text.format("x"), "--dataset", "both").options.dataset == "both"
    with pytest.raises(
        ConfigError, match=r"c.yaml:1: both is beside this file and in the working folder; write ./both"
    ):
        read(tmp_path, text.format("both"))


def test_the_example_data_is_found_or_named(tmp_path, monkeypatch):
    """An installed package without the repository: the message must say what is missing and how to get it."""
    monkeypatch.chdir(tmp_path)
    found = read(tmp_path, "dataset: examples:embedded/fashion_mnist").options.dataset
    assert os.path.samefile(found, ROOT / "recipes/embedded/fashion_mnist")
    monkeypatch.setenv("HF_MUTUAL_KD_EXAMPLES", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="example data is missing: HF_MUTUAL_KD_EXAMPLES=.*Clone"):
        train("image-classification", [])


def test_the_recorded_command_is_the_packages(place, tmp_path):  # noqa: F811
    """A card that names a script which an installed package does not have."""
    words = [*argv(place, tmp_path / "run"), "--control", "false"]
    assert main(words) == 0
    command = json.loads((tmp_path / "run" / "results.json").read_text())["command"]
    folder = os.path.relpath(tmp_path / "run")
    assert command.startswith(f"hf-mutual-kd train image-classification --output_dir {folder} ")


@pytest.mark.slow
def test_two_processes_train_one_cohort(tmp_path):
    """`--processes 2` that trains twice, into one folder, or ends with 0 after an error."""
    words = [sys.executable, "-m", "hf_mutual_kd", "train", "image-classification", *SHORT]
    words += ["--processes", "2", "--output_dir", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "run" / "cohort.json").read_text())
    assert record["hardware"]["processes"] == 2
    assert "--processes" not in record["command"]
    again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 2
    assert "is in use" in again.stderr


def process_of_rank(rank: int, output_dir: Path) -> int | None:
    """The number of the process that a launcher has started as this one, to write there."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(output_dir) in words and f"RANK={rank}".encode() in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                return int(process.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="looks for a process in /proc")
def test_a_killed_process_of_peers_in_parallel_goes_on(place, tmp_path):  # noqa: F811
    """Processes that wait for a dead one for ever, a checkpoint without a peer's part, or no word of how to go on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = [sys.executable, "-m", "hf_mutual_kd", "train", "image-classification", "--processes", "2"]
    # Three peers on two places, which are found by timing them, and found again.
    words += ["--peers", *[f"{name}={place}/{name}" for name in ("vit", "cnn", "cnx")], "--dataset", f"{place}/data"]
    words += [
        "--peer_parallel",
        "true",
        "--max_steps",
        "12",
        "--eval_steps",
        "3",
        "--save_steps",
        "3",
        "--learning_rate",
        "0.01",
    ]
    words += ["--use_cpu", "--report_to", "none", "--output_dir"]
    done = subprocess.run([*words, str(whole)], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    began = subprocess.Popen([*words, str(killed)], env=environment, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + 300
    while not list(killed.glob("stages/*/checkpoint-*")) and time.monotonic() < ends:
        time.sleep(0.01)
    os.kill(process_of_rank(1, killed), signal.SIGKILL)
    said = began.communicate(timeout=120)[1]
    assert began.returncode == 2
    assert "Signal 9 (SIGKILL)" in said
    assert said.splitlines()[-1].endswith("go on with --resume_from_checkpoint true"), said[-1000:]
    assert not (killed / "results.json").exists()
    again = [*words, str(killed), "--resume_from_checkpoint", "true"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(killed.rglob(".unfinished"))
    assert not list(killed.rglob("optimizer-part-*"))
    assert set(json.loads((killed / "cohort.json").read_text())["peer_seconds"]) == {"vit", "cnn", "cnx"}
    for stage in ("control", "way-mean", "way-best"):
        for name in ("vit", "cnn", "cnx"):
            weights = [load_file(run / "stages" / stage / name / "model.safetensors") for run in (whole, killed)]
            assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_processes_are_started_through_accelerate(monkeypatch):
    """Options that are lost on the way, an exit code that nobody sees, more processes than there are GPUs."""
    called = []
    monkeypatch.setattr(
        subprocess, "run", lambda words, check: called.append(words) or subprocess.CompletedProcess(words, 3)
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match="training in 2 processes ended with code 3"):
        train("image-classification", [*SHORT, "--processes", "2"])
    (words,) = called
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    assert words[words.index("--num_processes") + 1] == "2"
    assert words[-len(SHORT) - 6 :] == [
        "-m",
        "hf_mutual_kd",
        "train",
        "image-classification",
        *SHORT,
        "--processes",
        "2",
    ]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="at most 1, the GPUs of this machine, got 2"):
        train("image-classification", [*SHORT, "--processes", "2"])


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as a wheel, built from a copy of its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "hf_mutual_kd", source / "hf_mutual_kd", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.splitlines()[-1]


def test_the_wheel_holds_all_that_the_package_reads_and_is_small(wheel):
    """A template or configuration that is there in the checkout and missing for everybody else."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("hf_mutual_kd/")}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_mutual_kd").rglob("*") if path.is_file()}
    assert {name for name in there if "__pycache__" not in name} == packed
    assert "hf_mutual_kd/configs/embedded.yaml" in packed
    assert wheel.stat().st_size < 2_000_000


@pytest.mark.slow
def test_the_wheel_trains_from_another_folder(wheel, tmp_path):
    """What works in the checkout alone: install, train the embedded default a few steps, push dry run."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*words: str, **more: str):
        call = [sys.executable, "-m", "hf_mutual_kd", *words]
        return subprocess.run(call, cwd=work, env=environment | more, capture_output=True, text=True, timeout=280)

    missing = run("train", "image-classification", *SHORT)
    assert missing.returncode == 2
    assert "the example data is missing" in missing.stderr
    done = run("train", "image-classification", *SHORT, HF_MUTUAL_KD_EXAMPLES=str(ROOT / "recipes"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (work / "runs/vit_classify/vit/model.safetensors").is_file()
    pushed = run("push", "runs/vit_classify", "--namespace", "ada", "--dry_run")
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    assert "dry run: nothing was sent" in pushed.stdout
