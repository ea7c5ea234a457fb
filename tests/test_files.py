"""Files that appear whole or not at all, and JSON whose shape is checked."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_mutual_kd import ConfigError, OutputFolderError, whole, write_bytes, write_json, write_text
from hf_mutual_kd.files import read_json, staged


@dataclass
class Facts:
    name: str
    values: dict[str, float | None]
    steps: int = 0


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path):
    """Prevents a half-written record in the place of a good one, and an unfinished one beside it."""
    path = tmp_path / "deep" / "record.png"
    write_text(path, "old")
    with contextlib.suppress(ZeroDivisionError), whole(path) as beside:
        beside.write_text("half")
        assert path.read_text() == "old"
        assert beside.suffix == ".png"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    with whole(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
    assert [one.name for one in path.parent.iterdir()] == ["record.png"]


def test_a_full_disk_has_its_space_back(tmp_path):
    """Prevents that what did not fit on the disk keeps the space that the next try needs."""
    path = tmp_path / "big.bin"
    write_bytes(path, b"old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bytes(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("big.bin", b"old")]


def test_a_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    """Prevents an error about a file, of a folder above it that went away at every try."""
    made, missing = [], FileNotFoundError(2, "No such file or directory")

    def went_away(folder, **_):
        made.append(folder)
        raise missing

    monkeypatch.setattr(Path, "mkdir", went_away)
    with pytest.raises(FileNotFoundError) as told, staged(tmp_path / "run"):
        pass
    assert told.value is missing
    assert len(made) == 100


def test_json_has_the_shape_that_is_asked_for(tmp_path):
    """Prevents that a field which is there is lost, or that one of a newer version is taken for damage."""
    path = tmp_path / "facts.json"
    write_json(path, {"name": "é", "values": {"a": 1, "b": None, "c": float("nan")}, "new": []})
    found = read_json(path, Facts)
    assert (found.name, found.values["a"], found.values["b"], found.steps) == ("é", 1.0, None, 0)
    assert found.values["c"] != found.values["c"]
    assert read_json(path)["new"] == []


@pytest.mark.parametrize(
    ("written", "read"),
    [("\ud800", "\ufffd"), ("a\udfffb", "a\ufffdb"), ("\U0001f600", "\U0001f600"), ("\\ud800", "\\ud800")],
)
def test_half_a_character_ends_nothing(tmp_path, written, read):
    """A class whose name holds one that ends a training when its record is written, or a card when it is read."""
    path = tmp_path / "facts.json"
    write_json(path, {"name": written, "values": {}})
    assert read_json(path, Facts).name == read
    path.write_text(json.dumps({"name": written, "values": {}}))
    assert read_json(path, Facts).name == read


DAMAGED = {
    "cut": b'{"name": "a", "val',
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a missing field": b'{"name": "a"}',
    "text for a number": b'{"name": "a", "values": {"x": "1"}}',
    "a list for an object": b'{"name": "a", "values": []}',
    "true for a number": b'{"name": "a", "values": {"x": true}}',
    "a fraction for a whole number": b'{"name": "a", "values": {}, "steps": 0.5}',
    "too large for a whole number": b'{"name": "a", "values": {}, "steps": 1e400}',
    "thousands of digits": b'{"name": "a", "values": {}, "steps": ' + b"9" * 6000 + b"}",
    "no UTF-8": b'{"name": "\xff"}',
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"values":' * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_is_one_error(tmp_path, content):
    """Prevents a traceback, or a wrong value, from a file that was cut, edited or made to do harm."""
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(OutputFolderError, match=r"facts\.json is damaged: .*; run again, or restore it$"):
        read_json(path, Facts)


@pytest.mark.parametrize("name", ["missing.json", "folder", "nul\0.json", "x" * 5000])
def test_what_cannot_be_read_is_one_error(tmp_path, name):
    """Prevents a traceback from a record that is not there, or is no file."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: .*; do so$"):
        read_json(tmp_path / name, Facts, ConfigError, "do so")
