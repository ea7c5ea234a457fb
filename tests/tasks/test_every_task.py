"""What every task of classes does from rows to pages, from one table: see `task_kinds.py`."""

import importlib
import json
import re
import sys

import kind_run
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from task_kinds import ALL, KINDS, READERS, SEVERAL
from task_run import SETTINGS, check_resume
from two_processes import outcome, two

from hf_mutual_kd import (
    Cohort,
    ExportCheck,
    MutualKDConfig,
    MutualKDTrainer,
    PeerSpec,
    export_peers,
    write_report,
    write_space,
)
from hf_mutual_kd.data.collator import undecoded
from hf_mutual_kd.experiments.launch import train
from hf_mutual_kd.reports.run_facts import run_snippet
from hf_mutual_kd.reports.samples import SAMPLES_FILE, read_samples, write_samples
from hf_mutual_kd.tasks.classification.multi_label_evaluator import fitted_thresholds
from hf_mutual_kd.tasks.registry import make_task
from hf_mutual_kd.tasks.run_splits import load_run_splits

FAST = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "eval_strategy": "no",
    "save_strategy": "no",
    "seeds": 0,
    "learning_rate": 1e-2,
    "teacher_rule": "best",
}
every_kind = pytest.mark.parametrize("kind", ALL)
once_each = pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=[pytest.mark.slow] * (one in ("several text", "several audio"))) for one in ALL]
)
"""Where several labels of a text or sound go through what one label of them and several of an image go through."""
of_one_label = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each task as the command trains it, made when it is first asked for."""
    made = {}

    def run_of(name):
        if name not in made:
            kind, folder = ALL[name], tmp_path_factory.mktemp(name)
            peers, data = kind.save_peers(folder, kind.peers), kind.save_rows(folder / "data")
            words = ["--peers", *(f"{peer}={source}" for peer, source in peers.items()), "--dataset", data]
            fast = [word for option, value in FAST.items() for word in (f"--{option}", str(value))]
            train(kind.task, [*words, "--output_dir", str(folder / "run"), *fast])
            made[name] = folder / "run"
        return made[name]

    return run_of


@every_kind
def test_cards_and_results_are_whole(kind, runs):
    """A trained peer whose card shows code of another task, or that the Hub files under another one."""
    run, kind = runs(kind), ALL[kind]
    results = json.loads((run / "results.json").read_text())
    assert set(results["peers"]) == set(kind.peers)
    for name in kind.peers:
        card = (run / name / "README.md").read_text()
        tag = kind.task.removeprefix("multi-label-")
        assert f'pipeline("{tag}", model="' in card
        assert f"pipeline_tag: {tag}" in card
        assert make_task(kind.task).words.shown[make_task(kind.task).metric] in card
    assert (run / "report" / "index.html").is_file()
    assert Cohort.from_pretrained(run).task.name == kind.task


@every_kind
def test_a_cards_code_gives_the_trained_answers(kind, runs, tmp_path, monkeypatch, capsys):
    """Code that fails where a user runs it, or reads files, texts or labels otherwise than the training did."""
    run = runs(kind)
    cohort, record = Cohort.from_pretrained(run), json.loads((run / "cohort.json").read_text())
    row = next(iter(undecoded(load_run_splits(record).test)))
    literal = cohort.task.snippet_example(row, tmp_path)
    if literal is None:
        pytest.skip(f"{cohort.task.name}: what its pipeline reads files with is not installed (ffmpeg, torchcodec)")
    monkeypatch.chdir(run)
    for name, said in cohort.predict([row]).items():
        if name == "cohort":
            continue
        (code,) = re.findall(r"```python\n(.*?)```", (run / name / "README.md").read_text(), re.S)
        capsys.readouterr()
        exec(code.replace(json.dumps(cohort.task.words.example), literal), {})
        compare_printed(capsys.readouterr().out, dict(zip(cohort.label_names, said[0].tolist(), strict=True)))


def compare_printed(printed: str, said: dict[str, float]) -> None:
    found = dict(re.findall(r"(\w+): (\d\.\d+)", printed))
    assert {label: float(score) for label, score in found.items()} == pytest.approx(said, abs=6e-4)


@of_one_label
def test_the_page_shows_what_was_flipped(kind, runs):
    """Flips of which nobody sees or hears what they are."""
    run, kind = runs(kind), KINDS[kind]
    task = make_task(kind.task)
    measured = read_samples(run / SAMPLES_FILE, list(kind.peers))
    start, after = dict(measured.start), dict(measured.after)
    for guess in [key for key in start if key.endswith("guess")]:
        start[guess], after[guess] = (np.full_like(start[guess], value) for value in (0, 1))
    write_samples(run / SAMPLES_FILE, measured.peers, start, after, measured.facts)
    rows = load_run_splits(json.loads((run / "cohort.json").read_text())).test
    page = write_report(run, rows, task=task).read_text()
    assert kind.shows in page.split('id="flips"')[1]
    assert write_report(run, task=task).read_text() == page


@pytest.mark.parametrize("kind", SEVERAL)
def test_thresholds_are_fitted_on_validation_rows_and_kept(kind, runs):
    """An F1 at thresholds of the test rows themselves, or a card that speaks of thresholds that nobody gets."""
    run, kind = runs(kind), ALL[kind]
    results = json.loads((run / "results.json").read_text())["peers"]
    task = make_task(kind.task)
    splits = load_run_splits(json.loads((run / "cohort.json").read_text()))
    cohort = Cohort.from_pretrained(run)

    def said_and_true(rows):
        rows = list(undecoded(rows))
        truth = np.zeros((len(rows), len(kind.labels)), bool)
        for place, row in enumerate(rows):
            truth[place, row["label"]] = True
        return {name: one.numpy() for name, one in cohort.predict(rows).items()}, truth

    (before, fits), (after, truth) = said_and_true(splits.validation), said_and_true(splits.test)
    for name in kind.peers:
        kept = json.loads((run / name / "config.json").read_text())["thresholds"]
        expected = fitted_thresholds(before[name], fits)
        np.testing.assert_allclose([kept[label] for label in kind.labels], expected, atol=2e-4)
        found = results[name]["arms"]["mutual"]["metrics"]["fitted_F1"]
        assert found == pytest.approx(
            f1_score(truth, after[name] > expected, average="macro", zero_division=0), abs=1e-5
        )
        assert task.words.shown["fitted_F1"] in (run / name / "README.md").read_text()


@once_each
def test_a_file_says_what_pytorch_says(kind, runs, tmp_path):
    """A file that takes other inputs than the processor makes, or answers otherwise."""
    name = ALL[kind].peers[0]
    (one,) = export_peers(runs(kind), peers=[name], out=tmp_path, check=ExportCheck(8))
    assert one.measured["model.onnx"].agreement == 1.0
    assert one.measured["model.onnx"].accuracy == one.measured["pytorch"].accuracy is not None


@every_kind
def test_a_space_asks_the_peers(kind, runs, tmp_path, monkeypatch):
    """A Space without its processors, or one that answers otherwise than the peers do."""
    pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
    made = write_space(runs(kind), tmp_path / "space", samples=4).folder
    monkeypatch.syspath_prepend(str(made))
    try:
        app, peers = importlib.import_module("app"), importlib.import_module("peers")
        cohort = peers.Cohort(made)
        sample = cohort.facts["samples"][0]
        given = cohort.view.sample_value(sample)
        said = app.ask(cohort, given, sample["truth"])
        assert said.count("<section class=peer>") == 2
        assert "would teach" in said
        ours = Cohort.from_pretrained(runs(kind))
        rows = load_run_splits(json.loads((runs(kind) / "cohort.json").read_text())).test
        row = rows[int(sample["name"].removeprefix("sample "))]
        shown = app.ask(cohort, given, None)
        for name, found in ours.predict([row]).items():
            assert name == "cohort" or f"{100 * found.max():.1f} %" in shown
        assert app.build(cohort) is not None
    finally:
        for file in made.glob("*.py"):
            sys.modules.pop(file.stem, None)


@once_each
def test_resume_is_exact(kind, tmp_path):
    """Rows that come in another order, crop or length after an interruption."""
    kind = ALL[kind]

    def make_trainer(out, **changes):
        args = MutualKDConfig(out, **{**SETTINGS, **changes})
        torch.manual_seed(0)
        return MutualKDTrainer(kind.cohort(), args, train_dataset=kind.rows(24, 0), eval_dataset=kind.rows(6, 1))

    check_resume(make_trainer, tmp_path, list(kind.cohort().names))


@every_kind
def test_adapters_are_trained_and_loaded_again(kind, tmp_path):
    """An adapter without a target in this kind of model, whose head is chance or whose thresholds are gone whenever it
    is loaded, or that no pipeline loads."""
    kind = ALL[kind]
    name = kind.peers[0]
    (source,) = kind.save_peers(tmp_path, (name,), names=["other", "labels", "of", "it"]).values()
    specs = {"a": PeerSpec(source, peft="lora")}
    given = {"label_names": kind.labels}
    made = Cohort.from_pretrained(specs, kind.task, label_alignment="new_head", **given)
    args = MutualKDConfig(str(tmp_path / "run"), **{**SETTINGS, "max_steps": 2, "save_strategy": "no"})
    trainer = MutualKDTrainer(made, args, train_dataset=kind.rows(12, 0), eval_dataset=kind.rows(6, 1))
    trainer.train()
    trainer.settle(tmp_path / "run")
    torch.manual_seed(99)
    again = Cohort.from_pretrained({"a": str(tmp_path / "run" / "a")}, kind.task, **given)
    rows = list(undecoded(kind.rows(3, 2)))
    said = again.predict(rows)["a"]
    torch.testing.assert_close(said, made.predict(rows)["a"])
    thresholds = getattr(again.peers["a"].config, "thresholds", {})
    assert list(thresholds) == (kind.labels if made.task.settles else [])
    literal = made.task.snippet_example(rows[0], tmp_path)
    printed = literal and run_snippet(tmp_path / "run" / "a", literal, made.task.words)
    if printed:
        said = dict(zip(kind.labels, said[0].tolist(), strict=True))
        compare_printed(printed, said)
        for label in thresholds:
            assert (f"{label}: {said[label]:.3f} yes" in printed) == (said[label] > thresholds[label])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [*((kind,) for kind in ALL | READERS), *((kind, "streams") for kind in KINDS)], ids=str
)
def test_two_processes_train_as_one(words, tmp_path):
    """Batches that each process pads to another length, which cannot be joined or change what is learned."""
    kind_run.main(str(tmp_path / "one"), "8", *words)
    found = [
        outcome(tmp_path / "one")["metrics"],
        two(tmp_path / "two", *words, script="kind_run.py", batch=4)["metrics"],
    ]
    compared = [key for key in found[0] if key.split("/")[-1] in ("loss", "accuracy", "mAP", "agreement")]
    assert len(compared) > 5
    for key in compared:
        assert found[1][key] == pytest.approx(found[0][key], abs=2e-5), key
