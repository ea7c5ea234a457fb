"""Runs whose records are damaged: every reader says one thing, and none ends in a traceback."""

import json
import shutil

import pytest
from made_up_run import write_full_run

from hf_mutual_kd import (
    MutualKDError,
    compare_runs,
    export_peers,
    push_run,
    read_run,
    write_cards,
    write_report,
    write_space,
)
from hf_mutual_kd.reports.curves import read_history
from hf_mutual_kd.reports.report_data import read_report_data, read_teaching

FILES = ("cohort.json", "results.json", "summary.json", "history.jsonl", "roles.parquet", "report/samples.safetensors")
DAMAGE = {
    "empty": b"",
    "cut": b'{"task": "image-clas',
    "null": b"null",
    "a list": b"[1, 2]",
    "a number": b"7",
    "text": b'"x"',
    "an empty object": b"{}",
    "no UTF-8": b'{"task": "\xff"}',
    "nested": b'{"peers":' * 100_000,
    "brackets": b"[" * 100_000,
    "peers of text": b'{"task": "image-classification", "peers": ["vit"], "name": 3, "seeds": "0", "steps": null}',
    "facts of other types": b'{"task": "image-classification", "peers": {"vit": {"base": [], "parameters": "many"}}}',
    "an unknown data set": b'{"task": "image-classification", "peers": {"vit": {}}, "dataset": {"rows": [1]}}',
    "another step": b'{"step": "many", "eval_vit/accuracy": [1]}',
}
READERS = {
    "card": write_cards,
    "report": write_report,
    "push": lambda run: push_run(run, "me", dry_run=True),
    "space": lambda run: write_space(run, out=run.parent / "space", samples=0),
    "export": export_peers,
    "compare": lambda run: compare_runs([run, run.parent / "whole"], run.parent / "compared"),
}


def read_all(run):
    """All that cards and pages read of a run."""
    record = read_run(run)
    read_history(run)
    read_teaching(record)
    return record.results, record.first_arm, read_report_data(record)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_full_run(tmp_path_factory.mktemp("runs") / "whole")
    shutil.copytree(folder, folder.parent / "run")
    return folder


@pytest.mark.parametrize("file", FILES)
def test_every_damage_is_one_error(whole, file):
    """17 of 24 damaged records ended in tracebacks that said nothing of the file."""
    run = whole.parent / "run"
    kept = (run / file).read_bytes() if (run / file).is_file() else None
    (run / file).parent.mkdir(exist_ok=True)
    said = []
    # Drawing what the others hold takes seconds: of these files the reading alone.
    readers = READERS if file == "cohort.json" else {"records": read_all}
    for damage in DAMAGE.values():
        (run / file).write_bytes(damage)
        for read in readers.values():
            try:
                read(run)
            except MutualKDError as error:
                said.append(str(error))
    assert len(said) >= len(DAMAGE) - 6
    assert all("\n" not in one and len(one) < 1000 for one in said)
    (run / file).unlink() if kept is None else (run / file).write_bytes(kept)


def test_a_run_without_its_optional_records_is_read(whole, tmp_path):
    """A copied run that lacks a log whose card cannot be built."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for file in FILES[1:]:
        (run / file).unlink(missing_ok=True)
    assert set(write_cards(run)) == {"vit", "cnn"}
    assert write_report(run).is_file()


def test_records_of_another_run_are_refused(whole, tmp_path):
    """The numbers of other peers under the names of these."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    record = json.loads((run / "cohort.json").read_text())
    record["peers"]["other"] = record["peers"].pop("cnn")
    (run / "cohort.json").write_text(json.dumps(record))
    with pytest.raises(MutualKDError, match="is of the peers"):
        write_cards(run)
