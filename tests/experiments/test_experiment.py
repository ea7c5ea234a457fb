"""The recipe as users start it: what a run leaves behind, how it goes on, and what it refuses before it starts."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from datasets import Dataset, DatasetDict, Value
from recipe_run import RECIPE, ROOT, argv, main
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_mutual_kd import RoleTable


def run(place, out, *more, **kwargs) -> dict:
    assert main(argv(place, out, *more, **kwargs)) == 0
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def told(place, tmp_path_factory):
    """A finished run of two seeds: its folder, its results and what it said."""
    out = tmp_path_factory.mktemp("runs") / "two"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        results = run(place, out, "--seeds", "1", "2")
    return out, results, said.getvalue()


@pytest.fixture(scope="module")
def finished(told):
    return told[:2]


def test_results_hold_every_number_of_the_table(finished):
    """A results file without the control, the seeds or the data is worth nothing a week later."""
    _, results = finished
    assert set(results["peers"]) == {"vit", "cnx"}
    for peer in results["peers"].values():
        start, control, mutual = (peer["arms"][arm] for arm in ("start", "control", "mutual"))
        assert all(0 <= arm["metrics"]["accuracy"] <= 1 for arm in (start, control, mutual))
        for arm, against in (("control", control), ("start", start)):
            delta = peer["differences"][arm]["accuracy"]
            assert delta["mean"] == pytest.approx(mutual["metrics"]["accuracy"] - against["metrics"]["accuracy"])
            assert delta["low"] <= delta["mean"] <= delta["high"]
        flips = mutual["positive_flips"] - mutual["negative_flips"]
        assert mutual["metrics"]["accuracy"] - start["metrics"]["accuracy"] == pytest.approx(flips)
        assert len(mutual["per_seed"]) == len(control["per_seed"]) == 2
    assert results["units"] == 15
    assert results["ensemble"]["arms"]["mutual"]["metrics"]["accuracy"] >= 0
    taught = results["teachers"]["labelled"]
    assert sum(taught[name] for name in results["peers"]) > 0
    assert results["seeds"] == [1, 2]
    assert results["steps"] == 4
    assert results["dataset"]["rows"] == {"train": 40, "validation": 12, "test": 15}
    assert results["dataset"]["fingerprint"]
    assert torch.__version__.startswith(results["versions"]["torch"])
    assert results["command"].startswith("hf-mutual-kd train image-classification --")


def test_improved_peers_are_ordinary_models(finished):
    """A folder that only this package can load is a dead end."""
    out, _ = finished
    for name in ("vit", "cnx"):
        model = AutoModelForImageClassification.from_pretrained(out / name)
        assert list(model.config.id2label.values()) == LABELS
        AutoImageProcessor.from_pretrained(out / name)
    from hf_mutual_kd.data.splits import decode_image

    classify = pipeline("image-classification", model=str(out / "vit"))
    assert classify(decode_image(make_rows(1)[0]["image"]))[0]["label"] in LABELS
    assert not list(out.rglob("training_args.bin"))


def test_run_folder_is_complete(finished):
    """Later commands (cards, push, report) live from these files alone."""
    out, _ = finished
    assert {"cohort.json", "results.json", "roles.parquet", "history.jsonl", "summary.json"} <= {
        p.name for p in out.iterdir()
    }
    assert {"control", "seed-2"} <= {path.name for path in out.iterdir()}
    cohort = json.loads((out / "cohort.json").read_text())
    assert cohort["labels"] == LABELS
    assert cohort["peers"]["vit"]["architecture"] == "ViTForImageClassification"
    assert RoleTable.load(out / "roles.parquet").peer_names == ["vit", "cnx"]
    assert any("eval_vit/accuracy" in json.loads(line) for line in (out / "history.jsonl").open())
    assert not list(out.rglob("*.unfinished"))
    assert not list(out.rglob(".unfinished"))


def test_control_shares_start_and_order_with_the_mutual_run(place, tmp_path):
    """With weight 0 both arms must be one and the same run, or their difference means nothing."""
    run(place, tmp_path / "run", "--transfer_weight", "1e-30", "--retain", "false")
    left, right = (load_file(tmp_path / "run" / part / "vit" / "model.safetensors") for part in (".", "control"))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_what_is_to_come_is_said_once_and_before_it_begins(told):
    """Ten minutes without a word on how many there will be; the same report before each of six runs."""
    shown = told[2]
    assert shown.count("Before training, on 12 validation samples") == 1
    assert re.search(r"Plan: 2 arms × 2 seeds = 4 runs, about [\d.]+ (seconds|minutes)\.", shown)
    order = ["Before training", "Plan: ", *(f"run {place} of 4: " for place in (1, 2, 3, 4)), "On the test split"]
    assert sorted(order, key=shown.index) == order
    assert "run 3 of 4: control, seed 2" in shown


def test_finished_arms_are_not_run_again(finished, place, capsys):
    """Resuming a finished comparison must not cost a second time, nor change a number."""
    out, results = finished
    again = run(place, out, "--seeds", "1", "2", "--resume_from_checkpoint", "true")
    assert again == results
    assert "mutual, seed" not in capsys.readouterr().out


def test_killed_run_resumes_to_the_same_result(finished, place, tmp_path):
    """After kill -9 in the middle, a resumed run ends where an undisturbed one does."""
    out = tmp_path / "run"
    command = [sys.executable, str(RECIPE), *argv(place, out, "--seeds", "1", "2")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    while not (out / "checkpoint-2").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = run(place, out, "--seeds", "1", "2", "--resume_from_checkpoint", "true")
    assert resumed["peers"] == finished[1]["peers"]


@pytest.mark.parametrize(
    ("more", "peers"),
    [
        (["--labels", "false"], ("vit", "cnx")),
        (["--preset", "reference"], ("vit", "cnn", "cnx")),
        (["--teacher_rule", "mean", "--teacher_source", "frozen", "--augment", "false"], ("vit", "cnx")),
        (["--streaming", "true", "--label_alignment", "new_head"], ("vit", "cnx")),
        (["--control", "false"], ("vit",)),
    ],
    ids=["without labels", "reference", "frozen mean", "stream", "one peer"],
)
def test_other_settings_run(place, tmp_path, more, peers):
    """Every way a README names must work from the command line."""
    results = run(place, tmp_path / "run", *more, peers=peers)
    assert set(results["peers"]) == set(peers)
    assert ("control" in results["peers"]["vit"]["arms"]) is (more[0] in ("--preset", "--teacher_rule", "--streaming"))


@pytest.mark.parametrize(
    "config", sorted((ROOT / "hf_mutual_kd" / "configs").glob("imagenet*.yaml")), ids=lambda path: path.stem
)
def test_configurations_of_the_paper_run_with_stand_ins(config, place, tmp_path):
    """Files marked as not run here must at least run where the real models and data are."""
    import yaml

    names = list(yaml.safe_load(config.read_text())["peers"])
    stand_ins = [f"{name}={place / ('vit' if index % 2 else 'cnx')}" for index, name in enumerate(names)]
    words = [
        "--config",
        str(config),
        "--peers",
        *stand_ins,
        "--dataset",
        str(place / "data"),
        "--output_dir",
        str(tmp_path / "run"),
        "--input_column",
        "image",
        "--label_column",
        "label",
        "--train_split",
        "train",
        "--validation_split",
        "validation",
        "--test_split",
        "test",
        "--dataset_config",
        "null",
        "--dataset_revision",
        "null",
        "--streaming",
        "false",
        "--max_steps",
        "2",
        "--bf16",
        "false",
        "--use_cpu",
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
        "--per_device_train_batch_size",
        "8",
        "--dataloader_num_workers",
        "0",
    ]
    assert main(words) == 0
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["peers"]) == set(names)


def refuse_other_labels(folder: Path):
    model = MAKERS["vit"]()
    model.config.id2label = {0: "circle", 1: "square", 2: "hexagon"}
    model.save_pretrained(folder / "other")
    tiny_processor().save_pretrained(folder / "other")
    return f"other={folder / 'other'}"


def damaged_image(folder: Path):
    rows = make_rows(12)
    images = rows["image"][:]
    images[3] = {"bytes": b"no image", "path": None}
    broken = Dataset.from_dict({"image": images, "label": rows["label"][:]}, features=rows.features)
    DatasetDict({"train": broken, "validation": make_rows(9, 1), "test": make_rows(9, 2)}).save_to_disk(
        folder / "broken"
    )
    return str(folder / "broken")


def counted_from_one(folder: Path):
    rows = make_rows(12).cast_column("label", Value("int64")).map(lambda row: {"label": row["label"] + 1})
    DatasetDict({"train": rows, "validation": rows, "test": rows}).save_to_disk(folder / "from_one")
    return str(folder / "from_one")


BAD = {
    "labels counted from 1": (lambda f: ["--dataset", counted_from_one(f)], "train row 2: label 3 is out of range"),
    "peer does not exist": (lambda f: ["--peers", f"a={f}/nowhere", "b=nobody/nothing"], "nowhere"),
    "two peers of one name": (lambda f: ["--peers", "a=x", "a=y"], "two peers"),
    "unsafe name": (lambda f: ["--peers", "../a=x"], "safe folder name"),
    "label lists differ": (lambda f: ["--peers", refuse_other_labels(f)], "hexagon"),
    "column missing": (lambda f: ["--input_column", "picture"], "image"),
    "split missing": (lambda f: ["--train_split", "trian"], "train"),
    "unreadable image": (lambda f: ["--dataset", damaged_image(f)], "3"),
    "temperature": (lambda f: ["--temperature", "0"], "temperature"),
    "weight": (lambda f: ["--transfer_weight", "-1"], "transfer_weight"),
    "unknown value": (lambda f: ["--teacher_rule", "bset"], "best"),
    "unknown key": (lambda f: ["--temprature", "1"], "temperature"),
    "option for no peer": (lambda f: ["--peers.zoe.frozen"], "zoe"),
    "no dataset": (lambda f: ["--dataset", str(f / "nothing_here")], "nothing_here"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_way_out(case, place, tmp_path, capsys, monkeypatch):
    """Before any training, with a message, a non-zero exit and nothing left behind."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make, expected = BAD[case]
    more = make(tmp_path)
    words = argv(place, tmp_path / "run", *more)
    if more[0] in ("--peers", "--dataset"):
        at = words.index(more[0])
        end = next(i for i in range(at + 1, len(words)) if words[i].startswith("--"))
        del words[at:end]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert expected in error[error.index("error: ") :]
    assert not (tmp_path / "run").exists()


def test_unreadable_image_is_skipped_and_counted(place, tmp_path):
    """One damaged file must not cost the whole data set."""
    words = argv(place, tmp_path / "run", "--on_bad_row", "skip", "--control", "false")
    words[words.index("--dataset") + 1] = damaged_image(tmp_path)
    assert main(words) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["dataset"]["skipped_images"] == {"train": 1, "validation": 0, "test": 0}


def test_rows_without_any_label_train_and_say_what_cannot_be_measured(place, tmp_path, capsys):
    """People with pictures and no labels are whom the label-free mode is for."""
    parts = {"train": make_rows(24), "validation": make_rows(9, 1), "test": make_rows(9, 2)}
    bare = {name: rows.remove_columns("label") for name, rows in parts.items()}
    DatasetDict(bare).save_to_disk(tmp_path / "bare")
    words = argv(place, tmp_path / "run", "--labels", "false")
    words[words.index("--dataset") + 1] = str(tmp_path / "bare")
    assert main(words) == 0
    assert "no accuracy can be measured" in capsys.readouterr().out
    peers = json.loads((tmp_path / "run" / "results.json").read_text())["peers"]
    assert set(peers["vit"]["arms"]["mutual"]["metrics"]) == {"agreement"}
    card = (tmp_path / "run" / "vit" / "README.md").read_text()
    assert "None" not in card
    assert "nan" not in card.split("```")[0]


def test_output_folder_in_use_is_refused(finished, place, capsys):
    """A second run over the first would leave a mixture of both."""
    out, _ = finished
    before = sorted(path.name for path in out.rglob("*"))
    assert main(argv(place, out)) == 2
    assert "--resume_from_checkpoint" in capsys.readouterr().err
    assert sorted(path.name for path in out.rglob("*")) == before


def test_overwriting_replaces_the_folder(finished, place, tmp_path):
    """What an earlier run left must not be taken for the new run's."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    run(place, out, "--overwrite_output_dir", "--control", "false")
    assert not (out / "control").exists()
    assert not (out / "seed-2").exists()


LATE = {
    "stream without an end": (["--streaming", "true", "--max_steps", "-1"], "--max_steps"),
    "role table": (["--role_table", "nowhere.parquet"], "nowhere.parquet"),
    "cache of one view": (["--cache_frozen", "true"], "augment=false"),
    "views that do not change": (
        ["--cached_views", "2", "--augment", "false", "--teacher_source", "frozen"],
        "leave it out",
    ),
    "no checkpoint": (["--resume_from_checkpoint", "no/such/checkpoint-9"], "checkpoint-9"),
    "optimizer that is not installed": (["--optim", "galore_adamw"], "galore"),
}


@pytest.mark.parametrize("case", LATE)
def test_what_only_the_mutual_run_needs_is_checked_before_the_control(case, place, tmp_path, capsys):
    """The control trains first: an error that waits for the mutual run costs half of the whole time."""
    more, expected = LATE[case]
    words = argv(place, tmp_path / "run")
    if "--max_steps" in more:
        del words[words.index("--max_steps") : words.index("--max_steps") + 2]
    assert main([*words, *more]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert "control run" not in shown.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("is_over", [True, False], ids=["finished", "interrupted"])
def test_resuming_with_other_peers_leaves_the_earlier_run_alone(is_over, finished, place, tmp_path, capsys):
    """The old arms would be shown as those of the new peers, under a record that no longer names the old ones."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    if not is_over:
        (out / "summary.json").unlink()
        (out / "cohort.json").unlink()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    words = argv(place, out, "--seeds", "1", "2", "--resume_from_checkpoint", "true", peers=("vit", "cnn"))
    assert main(words) == 2
    assert "other peers" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overwriting_never_deletes_what_the_run_reads(finished, place, tmp_path, capsys):
    """Training an improved peer further, in place, must not begin with its deletion."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    words = argv(place, out, "--overwrite_output_dir")
    words[words.index(f"vit={place / 'vit'}")] = f"vit={out / 'vit'}"
    assert main(words) == 2
    assert "would delete" in capsys.readouterr().err
    assert (out / "vit" / "model.safetensors").is_file()


def test_streams_are_drawn_from_and_resume_exactly(place, tmp_path):
    """A stream sorted by class would be learned one class after the other."""
    rows = make_rows(40)
    by_class = sorted(range(40), key=lambda index: rows[index]["label"])
    splits = {"train": rows.select(by_class), "validation": make_rows(12, 1), "test": make_rows(15, 2)}
    DatasetDict(splits).save_to_disk(tmp_path / "sorted")
    out = tmp_path / "run"
    words = argv(
        place,
        out,
        "--streaming",
        "true",
        "--label_alignment",
        "new_head",
        "--control",
        "false",
        "--save_total_limit",
        "5",
    )
    words[words.index("--dataset") + 1] = str(tmp_path / "sorted")
    assert main(words) == 0
    first = RoleTable.load(out / "checkpoint-2" / "roles.parquet")
    assert len(first) == 16
    assert set(pq.read_table(out / "checkpoint-2" / "roles.parquet")["label"].to_pylist()) == {0, 1, 2}

    straight = load_file(out / "checkpoint-4" / "vit" / "model.safetensors")
    (out / "summary.json").unlink()
    shutil.rmtree(out / "checkpoint-4")
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0
    resumed = load_file(out / "checkpoint-4" / "vit" / "model.safetensors")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert len(RoleTable.load(out / "roles.parquet")) == 32


def test_examples_come_from_all_over_the_test_split():
    """A figure of four neighbouring frames, or of rows that nobody finds again."""
    from hf_mutual_kd.experiments.drawing import example_rows

    rows = make_rows(9)
    assert [row["sample_id"] for row in example_rows(rows)] == [0, 2, 4, 6]
    assert example_rows(rows)[1]["image"] == rows[2]["image"]
    assert [row["sample_id"] for row in example_rows(rows.select(range(2)))] == [0, 1]
    assert [row["sample_id"] for row in example_rows(rows.to_iterable_dataset())] == [0, 1, 2, 3]
