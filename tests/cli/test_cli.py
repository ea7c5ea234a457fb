"""The command line as a user types it, each time in a process of its own."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import children_cpu_s
from hub_server import HubServer
from made_up_run import made_up_record, made_up_results, words_of, write_run
from safetensors.numpy import save_file

from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.cli.environment import environment_table
from hf_mutual_kd.config.fields import GROUPS
from hf_mutual_kd.config.recipe import parse_options

TOKEN = "hf_adaTokenThatMustNeverLeave0123456789"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub():
    with HubServer({"ada": TOKEN}) as hub:
        yield hub


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "my run"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        save_file({"weight": np.zeros(500, np.float32)}, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text('{"model_type": "vit"}')
        (folder / name / "preprocessor_config.json").write_text("{}")
        (folder / name / "README.md").write_text(
            "---\nlicense: mit\npipeline_tag: image-classification\n---\n# A peer\n"
        )
        (folder / name / "training_args.bin").write_bytes(b"pickle")
    record = {"task": "image-classification", "words": words_of("image-classification"), "dataset": {"name": "beans"}}
    record["peers"] = {"a": {}, "b": {}}
    (folder / "cohort.json").write_text(json.dumps(record))
    return folder


def command(*words, hub=None, cwd=None, **env):
    """`hf-mutual-kd …` in a fresh process; with a hub, as the user ada."""
    hub_env = hub.env(TOKEN, cache=Path(cwd or ".") / "cache") if hub else {}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **hub_env, **env}
    call = [sys.executable, "-m", "hf_mutual_kd", *map(str, words)]
    return subprocess.run(call, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_push_says_what_it_did_and_again_that_nothing_changed(hub, run, tmp_path):
    """A silent or wrong report leaves the user to check every repository by hand."""
    done = command("push", run, "--namespace", "ada", hub=hub, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("/ada/")) == (0, 3), done.stderr
    for name in ("a", "b"):
        assert f"{hub.url}/ada/{name}-beans-mutual" in done.stdout
        assert hub.commits(f"ada/{name}-beans-mutual")[0].id[:12] in done.stdout
    assert f"collection: {hub.url}/collections/ada/" in done.stdout
    again = command("push", run, "--private", hub=hub, cwd=tmp_path)
    assert again.stdout.count("unchanged") == 2, again.stderr
    assert "note: ada/a-beans-mutual existed and stays public" in again.stdout
    assert TOKEN.encode() not in hub.everything_received()
    assert not {name for name in hub.files("ada/a-beans-mutual") if name.endswith(".bin")}


def test_a_dry_run_lists_files_sizes_and_metadata_without_the_network(hub, run, tmp_path):
    """A rehearsal that needs a login, or sends anything, is no rehearsal."""
    done = command("push", run, "--dry_run", "--namespace", "ada", hub=hub, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("ada/a-beans-mutual", "ada/b-beans-mutual", "model.safetensors", "2.1 kB", "  license: mit"):
        assert part in done.stdout
    assert "stays here: training_args.bin (not a kind of file that is pushed)" in done.stdout
    assert done.stdout.rstrip().endswith("dry run: nothing was sent")
    assert hub.requests == []


def test_the_command_in_a_failures_message_continues(hub, run, tmp_path):
    """Advice that does not work as printed is worse than none."""
    hub.fail("POST", "/b-beans-mutual/commit/", status=403)
    failed = command(
        "push",
        run,
        "--namespace",
        "ada",
        "--private",
        "--name_template",
        "{peer}-{dataset}-mutual",
        hub=hub,
        cwd=tmp_path,
    )
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("Traceback") == 0
    advice = failed.stderr.strip().splitlines()[-1].strip()
    program, *words = shlex.split(advice)
    assert (program, words[-2:]) == ("hf-mutual-kd", ["--peers", "b"])
    done = command(*words, hub=hub, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [len(hub.commits(f"ada/{name}-beans-mutual")) for name in "ab"] == [2, 2]
    assert hub.repo("ada/b-beans-mutual").private
    (collection,) = hub.store.collections.values()
    assert [item["id"] for item in collection.items] == ["ada/a-beans-mutual", "ada/b-beans-mutual"]


def test_a_silent_server_ends_the_command(hub, run, tmp_path):
    """The client's own upload threads are waited for at exit: the command would hang after its last message."""
    (run / "a" / "more.safetensors").write_bytes((run / "a" / "model.safetensors").read_bytes() + b" ")
    hub.fail("PUT", "/lfs/", delay=30, times=9)
    began = time.monotonic()
    done = command("push", run, "--namespace", "ada", "--deadline_s", "2", hub=hub, cwd=tmp_path)
    assert time.monotonic() - began < 30  # of the server's silence
    assert done.returncode == 2
    assert "the deadline of 2 s that was given is over" in done.stderr


def test_errors_are_one_message_and_exit_code_2(run, tmp_path, capsys):
    """A traceback for a mistyped folder sends users to the issue tracker."""
    assert cli.main(["push", str(tmp_path / "none"), "--namespace", "ada"]) == 2
    assert re.fullmatch(r"error: .*none is no run: .*\n", capsys.readouterr().err)
    assert cli.main(["push", str(run), "--namespace", "ada", "--peers", "aa"]) == 2
    assert "it has a, b" in capsys.readouterr().err
    assert cli.main(["card", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("psh runs/x", "unknown command psh (nearest: push); there are train image-classification"),
        ("saliency prdict film.mp4", "unknown command saliency prdict (nearest: saliency predict)"),
        ("", "no command was given; there are"),
        ("push runs/x --dry-rn", "command line: unknown option dry_rn (nearest: dry_run)"),
        ("push", "command line: RUN_DIR is missing: Folder of a run"),
        ("push runs/x runs/y", "command line: 'runs/y' belongs to no option after RUN_DIR"),
        ("push runs/x --deadline_s nan", 'command line: --deadline_s must be a number, got "nan"'),
        ("push runs/x --deadline_s 0", "deadline_s must be greater than 0, got 0.0"),
        ("export runs/x --max_drop inf", "max_drop must be from 0 to 100, got inf"),
        ("export runs/x --samples 0", "samples must be 1 or more, got 0"),
        ("export runs/x --format tf", '--format must be one of onnx, got "tf"'),
        ("score --peers a=x --dataset d --out t --workers -1", "workers must be 0 or more, got -1"),
        ("score --peers a=x --out t", "--dataset is missing"),
        ("score --peers a=x --dataset d --out t --streaming", "streaming is for training"),
        ("scout --dataset d", "2 problems:\n  - command line: --model is missing: Mine."),
        ("scout --dataset d --model m --out o --candidates c --budget much", "budget: expected a number such as 100M"),
        ("compare --config s.yaml --processes 0", "processes must be 1 or more, got 0"),
        ("report", "command line: RUN … is missing"),
        ("space runs/x --samples -1", "samples must be 0 or more, got -1"),
        ("saliency predict film.mp4 --model m --out o --stride 0", "stride must be 1 or more, got 0"),
        ("env --now", "command line: unknown option now"),
    ],
)
def test_a_wrong_command_line_is_one_error_that_names_the_right_one(words, message, capsys):
    """Options that only some commands check, each in its own words, or after minutes of loading."""
    assert cli.main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_words_of_a_position_may_stand_anywhere():
    """`--int8 RUN` must not take the run for the flag's value, nor `--out X RUN` two folders."""
    for words in (
        ["runs/x", "--int8", "--out", "o"],
        ["--int8", "runs/x", "--out", "o"],
        ["--out", "o", "runs/x", "--int8"],
    ):
        found = parse_options(words, cli.COMMANDS["export"].options, program="export", description="")
        assert (found.place, found.int8, found.out) == ("runs/x", True, "o")
    many = parse_options(["a", "--out", "o", "b"], cli.COMMANDS["report"].options, program="report", description="")
    assert (many.runs, many.out) == (["a", "b"], "o")


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if command.options])
def test_every_option_of_a_command_has_a_group_and_is_in_its_help(name, capsys):
    """An option without a word is one that nobody can use."""
    with pytest.raises(SystemExit) as end:
        cli.main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert (end.value.code, shown.splitlines()[0].startswith(f"usage: hf-mutual-kd {name}")) == (0, True)
    options = cli.COMMANDS[name].options
    for item in dataclasses.fields(options if isinstance(options, type) else options([])):
        assert item.metadata["group"] in GROUPS
        assert item.metadata["help"]
        assert (item.metadata["metavar"] if item.metadata.get("positional") else f"--{item.name} ") in shown


def test_what_is_scored_is_said_by_the_options_of_its_task(capsys):
    """Masks that count from 1, scored as if they did not; an option that no score depends on."""
    words = ["--task", "semantic-segmentation", "--peers", "a=x", "--dataset", "d", "--out", "o"]
    words += ["--reduce_labels", "--transfer_grid", "label"]
    options = cli.COMMANDS["score"].options(words)
    task = parse_options(words, options, program="score", description="").task_of_rows()
    assert (task.name, task.grid) == ("semantic-segmentation", "label")
    assert (task.options.reduce_labels, task.options.dataset) == (True, "d")
    for wrong, knows in (("crop_size", "semantic-segmentation"), ("eval_frame_step", "video-saliency")):
        assert cli.main(["score", *words, f"--{wrong}", "2"]) == 2
        assert f"unknown option {wrong}: an option of {knows}" in capsys.readouterr().err
    rows = ["--model", "x", "--out", "o", "--dataset", "d", "--labels_per_class", "3", "--samples", "5"]
    scout = parse_options(rows, cli.COMMANDS["scout"].options(rows), program="scout", description="")
    assert scout.to_train() == {"dataset": "d", "labels_per_class": 3}


def test_card_rebuilds_the_cards_from_the_records_alone(tmp_path, capsys):
    """A card must not need the models, the data or the network again."""
    folder = write_run(tmp_path / "run", made_up_record(), made_up_results())
    assert cli.main(["card", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: {folder / name / 'README.md'}" for name in ("vit", "cnn")
    ]
    assert (folder / "cnn" / "README.md").read_text().startswith("---\n")


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    """Scripts tell a user's Ctrl-C from a failure by the exit code."""

    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "env", cli.COMMANDS["env"]._replace(run=interrupt))
    assert cli.main(["env"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_help_is_quick_and_loads_no_torch():
    """`--help` behind seconds of imports feels broken."""
    code = (
        "import sys, hf_mutual_kd.cli.main as cli\n"
        "try: cli.main(['push', '--help'])\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'huggingface_hub'} & set(sys.modules)))"
    )
    before = children_cpu_s()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert children_cpu_s() - before < 1
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "--dry_run" in done.stdout


def test_a_push_loads_no_torch():
    """Pushing from a login node should not wait for a GPU library."""
    code = "import sys, hf_mutual_kd.hub.push; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_env_shows_versions_and_no_secrets(capsys, monkeypatch):
    """Bug reports are public: a token or a user's folder in them is a leak."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", "/home/somebody/cache")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cli.main(["env"]) == 0
    shown = capsys.readouterr().out
    assert TOKEN not in shown
    assert "somebody" not in shown
    facts = dict(environment_table())
    assert (facts["HF_TOKEN"], facts["HF_HOME"], facts["OMP_NUM_THREADS"]) == ("set", "set", "1")
    assert re.match(r"\d+\.\d+", facts["torch"])
    assert all(name in shown for name in ("python", "transformers", "GPU"))
