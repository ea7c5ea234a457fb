"""The role table: what it counts, that it survives the disk, and that it trusts no file."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_mutual_kd import DataError, PeerError, ResumeError, RoleTable
from hf_mutual_kd.distillation.roles import ALL, MEAN, NOBODY, UNDECIDED

BIG = 2**62


@pytest.fixture
def table():
    made = RoleTable(["vit", "cnn"])
    made.record(torch.tensor([BIG, -5, 3]), torch.tensor([0, 1, NOBODY]), labels=torch.tensor([2, 0, -1]))
    made.record([3, -5, 8], [MEAN, 1, UNDECIDED], labels=[1, -1, 1])
    return made


def test_counts_by_hand(table):
    """Cards and figures quote these numbers."""
    assert len(table) == 3
    assert table.counts() == {"vit": 1, "cnn": 2, "nobody": 1, "mean": 1}
    labelled = {"vit": 1, "cnn": 2, "<mean>": 1, "<all>": 0, "nobody": 1}
    assert table.counts_by_label() == {"labelled": labelled}
    table.record([8, 9], [NOBODY, ALL])
    unlabelled = {"vit": 0, "cnn": 0, "<mean>": 0, "<all>": 1, "nobody": 1}
    assert table.counts_by_label() == {"labelled": labelled, "unlabelled": unlabelled}
    assert RoleTable(["a"]).counts_by_label() == {}


def test_without_any_label_all_rows_are_counted_together():
    """A run on masks, or without labels, whose table says that it had rows without a label beside others."""
    table = RoleTable(["a", "b"])
    table.record([1, 2], [0, MEAN])
    assert table.counts_by_label() == {"all": {"a": 1, "b": 0, "<mean>": 1, "<all>": 0, "nobody": 0}}


def test_lookup_gives_the_last_decision(table):
    """UNDECIDED was never a decision: it must neither count nor overwrite one."""
    found = table.lookup([3, BIG, -5, 8, 0])
    assert found.dtype == torch.int64
    assert found.tolist() == [MEAN, 0, 1, UNDECIDED, UNDECIDED]
    assert table.lookup([]).tolist() == []


def test_a_sample_twice_in_a_batch_counts_twice():
    """`array[rows] += 1` counts it once; a short data set repeats samples in a batch."""
    table = RoleTable(["a", "b"])
    table.record([1, 1, 1], [0, 0, 1])
    assert table.counts() == {"a": 2, "b": 1, "nobody": 0, "mean": 0}
    assert table.lookup([1]).tolist() == [1]


def test_rows_survive_growth():
    """Storage is replaced when it is full; everything recorded before must still be there."""
    table = RoleTable(["a", "b"])
    ids = np.arange(5000) * 7 - 100
    for part in np.array_split(ids, 40):
        table.record(part, part % 2, labels=part % 3)
    assert torch.equal(table.lookup(ids), torch.from_numpy(ids % 2))
    assert table.counts()["a"] == 2500
    assert sum(table.counts_by_label()["labelled"].values()) == 5000


def test_saved_tables_come_back_and_equal_content_gives_equal_bytes(table, tmp_path):
    """Resume reads what a checkpoint wrote; row order must not tell in which order processes reported."""
    path = tmp_path / "deep" / "roles.parquet"
    table.save(path)
    loaded = RoleTable.load(path, ["vit", "cnn"])
    assert loaded.counts() == table.counts()
    assert torch.equal(loaded.lookup([BIG, -5, 3]), table.lookup([BIG, -5, 3]))
    loaded.record([99], [0])
    assert len(loaded) == 4
    other = RoleTable(["vit", "cnn"])
    other.record([3, -5], [NOBODY, 1], labels=[-1, 0])
    other.record([-5, 3, BIG], [1, MEAN, 0], labels=[0, 1, 2])
    other.save(tmp_path / "other.parquet")
    assert (tmp_path / "other.parquet").read_bytes() == path.read_bytes()
    assert [child.name for child in path.parent.iterdir()] == ["roles.parquet"]


def test_columns_are_what_other_programs_expect(table, tmp_path):
    """The file is read by cards, reports and people: its columns are an interface."""
    table.save(tmp_path / "t.parquet")
    stored = pq.read_table(tmp_path / "t.parquet")
    assert stored.schema.names == [
        "sample_id",
        "label",
        "teacher",
        "decisions",
        "taught/vit",
        "taught/cnn",
        "taught/<mean>",
    ]
    assert stored.column("sample_id").to_pylist() == [-5, 3, BIG]
    assert stored.column("label").to_pylist() == [0, 1, 2]
    assert stored.column("teacher").to_pylist() == ["cnn", "<mean>", "vit"]
    empty = RoleTable(["vit", "cnn"])
    empty.save(tmp_path / "empty.parquet")
    assert len(RoleTable.load(tmp_path / "empty.parquet")) == 0


def test_the_peers_may_stand_in_another_order(table, tmp_path):
    """Indices are of this run's order: taking those of the file would swap teachers."""
    table.save(tmp_path / "t.parquet")
    swapped = RoleTable.load(tmp_path / "t.parquet", ["cnn", "vit"])
    assert swapped.lookup([BIG, -5]).tolist() == [1, 0]
    assert swapped.counts() == table.counts()


def test_other_peers_are_refused(table, tmp_path):
    """A table of another run would say that somebody teaches who is not there."""
    table.save(tmp_path / "t.parquet")
    with pytest.raises(ResumeError, match=r"\['vit', 'cnn'\].*\['vit', 'cnx'\]"):
        RoleTable.load(tmp_path / "t.parquet", ["vit", "cnx"])


def change(stored, name, values, kind=None):
    column = pa.array(values, kind or stored.schema.field(name).type)
    return stored.set_column(stored.schema.get_field_index(name), name, column)


@pytest.mark.parametrize(
    ("name", "values", "kind", "message"),
    [
        ("teacher", ["cnn", "dog", "vit"], None, "'dog'"),
        ("sample_id", [1, 1, 2], None, "twice"),
        ("sample_id", [1, None, 2], None, "missing values"),
        ("sample_id", ["1", "2", "3"], pa.string(), "must be int64"),
        ("decisions", [2, 2, 0], None, "do not agree"),
        ("taught/cnn", [-1, 0, 0], None, "0 or more"),
        ("taught/cnn", [9, 0, 0], None, "do not agree"),
        ("teacher", ["vit", "<mean>", "vit"], None, "do not agree"),
        ("label", [-7, 1, 2], None, "0 or more"),
        ("label", [0.5, 1, 2], pa.float32(), "must be int32"),
    ],
)
def test_values_that_cannot_be_are_refused(table, tmp_path, name, values, kind, message):
    """A file is input from outside: a bad row must stop the run, not teach."""
    table.save(tmp_path / "t.parquet")
    pq.write_table(change(pq.read_table(tmp_path / "t.parquet"), name, values, kind), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        RoleTable.load(tmp_path / "t.parquet")


def test_files_that_are_no_role_table_are_refused(table, tmp_path):
    """A missing file, some bytes, a folder, another Parquet file: each by name."""
    (tmp_path / "bytes").write_bytes(b"PAR1 no")
    table.save(tmp_path / "t.parquet")
    pq.write_table(pq.read_table(tmp_path / "t.parquet").drop_columns(["decisions"]), tmp_path / "short")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other")
    for name in ("none", "bytes", "short", "other"):
        with pytest.raises(DataError, match=name):
            RoleTable.load(tmp_path / name)


def test_merge_adds_counts_and_takes_the_others_last_word(table):
    """Processes see different samples, and the same one in different epochs."""
    other = RoleTable(["vit", "cnn"])
    other.record([3, 77], [0, NOBODY], labels=[-1, 1])
    table.merge(other)
    assert table.counts() == {"vit": 2, "cnn": 2, "nobody": 2, "mean": 1}
    assert table.lookup([3, 77, -5]).tolist() == [0, NOBODY, 1]
    assert table.counts_by_label()["labelled"] == {"vit": 2, "cnn": 2, "<mean>": 1, "<all>": 0, "nobody": 2}
    with pytest.raises(DataError, match="same peers"):
        table.merge(RoleTable(["cnn", "vit"]))


@pytest.mark.parametrize(
    ("ids", "teacher", "labels"),
    [
        ([1, 2], [0], None),
        ([1], [2], None),
        ([1], [-5], None),
        ([1.5], [0], None),
        ([[1]], [[0]], None),
        ([1], [0], []),
    ],
)
def test_bad_batches_leave_the_table_as_it_was(ids, teacher, labels):
    """Half of a refused batch in the counts would be found by nobody."""
    table = RoleTable(["a", "b"])
    with pytest.raises(DataError):
        table.record(ids, teacher, labels=labels)
    assert len(table) == 0


@pytest.mark.parametrize("names", [[], ["a", "a"], ["nobody"], ["mean"], ["<mean>", "b"]])
def test_names_that_would_clash_are_refused(names):
    """`counts` would add a peer called 'mean' to the mean's."""
    with pytest.raises(PeerError):
        RoleTable(names)


def test_recording_is_cheap():
    """The record runs in every step; a scan of the whole table there would grow with the data set."""
    table = RoleTable(["a", "b", "c"])
    ids = torch.randperm(100_000, generator=torch.Generator().manual_seed(0))
    table.record(ids, ids % 3)
    seconds = []
    for batch in ids[: 128 * 50].split(128):
        start = time.process_time()
        table.record(batch, batch % 3, labels=batch % 10)
        table.lookup(batch)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2e-3
