"""What arms record of tasks with maps: rows that belong together, one file, and which samples are shown."""

import numpy as np
import pytest

from hf_mutual_kd import OutputFolderError
from hf_mutual_kd.reports import samples
from hf_mutual_kd.reports.samples import SampleRecorder, Samples, choose_changes, read_samples, write_samples


def recorded(ids, scores, **sums):
    return {"sample/id": np.array(ids), "sample/score": np.array(scores), **sums}


def test_samples_are_kept_once_by_id_and_only_so_many(monkeypatch):
    """A sample that two processes met counts twice, or a large data set fills the memory."""
    monkeypatch.setattr(samples, "MOST_ROWS", 3)
    recorder = SampleRecorder()
    recorder.add(id=np.array([5, 2]), score=np.array([[0.5], [0.2]]))
    recorder.add(id=np.array([5, 9]), score=np.array([[0.7], [0.9]]))
    recorder.add(id=np.array([1]), score=np.array([[0.1]]))
    found = recorder.joined()
    assert found["sample/id"].tolist() == [2, 5]
    assert found["sample/score"].tolist() == [[0.2], [0.5]]
    assert SampleRecorder().joined() == {}


def test_a_file_holds_the_samples_of_both_phases_in_one_order(tmp_path):
    """The score after of another sample than the one before."""
    path = tmp_path / "report" / "samples.safetensors"
    start = recorded([2, 4, 7], [[0.2], [0.4], [0.7]], sums=np.array([1, 2]))
    after = recorded([4, 7, 8], [[0.5], [0.8], [0.9]], sums=np.array([3, 4]))
    assert write_samples(path, ["a"], start, after, {"videos": ["x"]})
    first = path.read_bytes()
    found = read_samples(path, ["a"])
    assert found.ids.tolist() == [4, 7]
    assert (found.after["sample/score"] - found.start["sample/score"]).ravel() == pytest.approx([0.1, 0.1])
    assert (found.start["sums"].tolist(), found.after["sums"].tolist()) == ([1, 2], [3, 4])
    assert found.facts == {"videos": ["x"]}
    assert found.rows_of([7, 3]) == [1, None]
    write_samples(path, ["a"], start, after, {"videos": ["x"]})
    assert path.read_bytes() == first
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_tasks_that_record_nothing_leave_nothing(tmp_path):
    """An empty file that a report takes for a measurement."""
    assert not write_samples(tmp_path / "m", ["a"], {}, {}, {})
    assert read_samples(tmp_path / "m", ["a"]) is None


def test_other_peers_and_damage_are_named(tmp_path):
    """The numbers of one peer under the name of another, or a traceback."""
    write_samples(tmp_path / "m", ["a"], recorded([1], [[0.0]]), recorded([1], [[0.0]]), {})
    with pytest.raises(OutputFolderError, match="m is damaged: it is of a, the run has b"):
        read_samples(tmp_path / "m", ["b"])
    (tmp_path / "m").write_bytes(b"broken")
    with pytest.raises(OutputFolderError, match="m is damaged"):
        read_samples(tmp_path / "m", ["a"])


def chosen(change, groups=None, most=10):
    start = recorded(range(len(change)), np.zeros_like(change))
    if groups is not None:
        start["sample/group"] = np.array(groups)
    return choose_changes(Samples(["a", "b"], start, {"sample/score": np.array(change)}, {}), most)


def test_every_peer_and_direction_has_its_turn():
    """A list on which a peer that lost on all images hides the other."""
    change = np.array([[0.1, 0.0], [-0.9, 0.0], [-0.8, 0.0], [0.3, 0.2], [np.nan, -0.01], [0.0, 0.0]])
    assert chosen(change) == [3, 1, 4, 0, 2]
    assert chosen(change, most=2) == [3, 1]
    assert chosen(np.zeros((3, 2))) == []


def test_every_video_has_its_turn():
    """Sixty frames of one second."""
    change = np.array([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.1, 0.0]])
    assert chosen(change, groups=[4, 4, 4, 7]) == [0, 3, 1, 2]
