"""Folders and files appear whole or not at all."""

import json
import os

import pytest
import torch
from torch import nn

from hf_mutual_kd import ResumeError, staged, write_json, write_text
from hf_mutual_kd.files import STAGING, clear_staging, link_tree
from hf_mutual_kd.peers.weights_hash import fingerprint
from hf_mutual_kd.training import checkpoint_state as checkpoints


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_staged_folder_appears_whole(tmp_path):
    """A reader that sees half a folder loads half a model."""
    place = tmp_path / "vit"
    with staged(place) as made:
        (made / "a").write_text("1")
        assert not place.exists()
    assert tree(tmp_path) == {"vit/a": "1"}
    with staged(place) as made:
        assert list(made.iterdir()) == []
        (made / "b").write_text("2")
        assert tree(place) == {"a": "1"}
    assert tree(tmp_path) == {"vit/b": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def write_half(place, error):
    with staged(place) as made:
        (made / "a").write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_block_that_raises_leaves_what_was_there(tmp_path, error):
    """A full disk while saving must not cost the last good weights."""
    place = tmp_path / "vit"
    with staged(place) as made:
        (made / "a").write_text("1")
    for name in ("vit", "new"):
        with pytest.raises(error):
            write_half(tmp_path / name, error)
        assert tree(tmp_path) == {"vit/a": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def test_leftovers_of_a_killed_process_do_no_harm(tmp_path):
    """Files of an interrupted save would be part of the next one."""
    stale = tmp_path / STAGING / "vit"
    stale.mkdir(parents=True)
    (stale / "stale").write_text("x")
    with staged(tmp_path / "vit") as made:
        (made / "a").write_text("1")
    assert tree(tmp_path) == {"vit/a": "1"}
    stale.mkdir(parents=True)
    clear_staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def test_links_outlive_what_replaces_their_source(tmp_path):
    """A checkpoint that shares files with the best weights must not change when those do."""
    source, target = tmp_path / "vit", tmp_path / "checkpoint-1" / "best" / "vit"
    with staged(source) as made:
        (made / "sub").mkdir()
        (made / "sub" / "w").write_text("old")
    link_tree(source, target)
    assert (target / "sub" / "w").samefile(source / "sub" / "w")
    write_text(source / "sub" / "w", "newer")
    assert tree(target) == {"sub/w": "old"}
    with staged(source) as made:
        (made / "w").write_text("new")
    assert tree(target) == {"sub/w": "old"}


def test_linking_over_a_linked_file_leaves_the_other_link(tmp_path):
    """Copying into a file that is linked elsewhere would change both."""
    for name, text in (("a", "a"), ("b", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text(text)
    link_tree(tmp_path / "a", tmp_path / "c")
    link_tree(tmp_path / "b", tmp_path / "c")
    link_tree(tmp_path / "b", tmp_path / "c")
    assert [tree(tmp_path / name)["w"] for name in "abc"] == ["a", "b", "b"]


def test_linking_copies_where_links_cannot_be_made(tmp_path, monkeypatch):
    """Some file systems have no hard links."""

    def refuse(*args):
        raise OSError("no links here")

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w").write_text("1")
    monkeypatch.setattr(os, "link", refuse)
    link_tree(tmp_path / "a", tmp_path / "b")
    assert tree(tmp_path / "b") == {"w": "1"}


def test_json_is_written_whole(tmp_path, monkeypatch):
    """A file cut short is broken for every reader."""

    def full(*args):
        raise OSError("no space left")

    path = tmp_path / "results.json"
    write_json(path, {"name": "Größe", "b": 1, "a": None})
    assert path.read_text(encoding="utf-8") == '{\n  "name": "Größe",\n  "b": 1,\n  "a": null\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "cut")
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_history_is_a_line_per_entry(tmp_path):
    """A history that cannot be read line by line cannot be read while it grows."""
    checkpoints.write_history(tmp_path / "history.jsonl", [{"loss": 1.5, "step": 1}, {"step": 2}])
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"loss": 1.5, "step": 1}, {"step": 2}]


@pytest.mark.parametrize("content", [None, "", "{", b"\xff\xfe\x00"])
def test_folder_that_is_no_checkpoint_is_refused(tmp_path, content):
    """A checkpoint of the plain Trainer would resume with random peers."""
    if content is not None:
        (tmp_path / checkpoints.COHORT_STATE).write_bytes(content if isinstance(content, bytes) else content.encode())
    said = (
        "no checkpoint of a cohort .* leave resume_from_checkpoint out" if content is None else "is damaged: .*another"
    )
    with pytest.raises(ResumeError, match=said):
        checkpoints.read_state(tmp_path)


def test_other_cohorts_are_refused_with_both_sides(tmp_path):
    """Weights of one peer in another's place would train on without a word."""
    state = {"task": "sorting", "peers": ["vit", "cnn"], "labels": ["a"], "starting_weights": "1", "bests": 3}
    expected = {key: state[key] for key in ("task", "peers", "labels", "starting_weights")}
    checkpoints.check_state(tmp_path, state, expected)
    for key, value in (("task", "x"), ("peers", ["cnn", "vit"]), ("labels", ["a", "b"]), ("starting_weights", "2")):
        with pytest.raises(ResumeError) as error:
            checkpoints.check_state(tmp_path, state, expected | {key: value})
        text = str(error.value)
        assert f"other {key.replace('_', ' ')}: {json.dumps(state[key])}, now {json.dumps(value)}" in text
        assert "start anew in another output_dir" in text
    with pytest.raises(ResumeError) as error:
        checkpoints.check_state(tmp_path, {"labels": ["x" * 50] * 1000}, {"labels": ["y" * 50] * 1000})
    assert len(str(error.value)) < 500


def test_fingerprint_sees_every_weight():
    """Equal fingerprints of different starts would let a run resume on another's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1).to(torch.bfloat16))
    before = fingerprint(model)
    assert before == fingerprint(model)
    for tensor in model.state_dict().values():
        kept = tensor.clone()
        tensor.add_(1)
        assert fingerprint(model) != before
        tensor.copy_(kept)
    assert fingerprint(model) == before
