"""Samples with maps on disk: ids that survive, rows that are found again in every kind of split."""

import numpy as np
import pytest
from datasets import Dataset
from made_up_maps import looked_at, segmented
from saliency_run import gaze_videos

from hf_mutual_kd import ClipRows, OutputFolderError
from hf_mutual_kd.data.images import content_id
from hf_mutual_kd.experiments.drawing import rows_with
from hf_mutual_kd.reports.pictures import (
    MAP_PIXELS,
    NO_CLASS,
    class_map,
    density_map,
    read_map,
    read_pictures,
    write_pictures,
)


def test_class_ids_survive():
    """A class 256 that becomes class 0, or ids that are blended where a map is thinned."""
    plane = np.array([[0, 255], [-1, 300]])
    assert read_map(class_map(plane)).tolist() == [[0, 255], [NO_CLASS, 300]]
    large = np.repeat([[0, 200]], 500, 1).repeat(300, 0)
    thinned = read_map(class_map(large))
    assert thinned.shape == (38, MAP_PIXELS)
    assert np.unique(thinned).tolist() == [0, 200]
    assert (thinned == 0).mean() == 0.5


def test_densities_are_relative_to_their_peak():
    """A density that sums to 1 is black in 8 bits."""
    assert read_map(density_map(np.array([[0.001, 0.002]]))).tolist() == [[128, 255]]
    assert read_map(density_map(np.zeros((2, 2)))).max() == 0


def test_rows_are_found_by_the_ids_of_their_split():
    """The maps of one sample under the score of another."""
    rows = Dataset.from_dict({"image": [{"bytes": bytes([n]), "path": None} for n in range(5)], "label": range(5)})
    assert [(row["sample_id"], row["label"]) for row in rows_with(rows, [4, 1])] == [(1, 1), (4, 4)]
    stream = rows.to_iterable_dataset()
    wanted = content_id({"bytes": bytes([3]), "path": None})
    assert [(row["sample_id"], row["label"]) for row in rows_with(stream, [wanted, 12])] == [(wanted, 3)]
    clips = ClipRows(gaze_videos(2, "test"), every=3)
    ids = [clips[place]["sample_id"] for place in range(len(clips))]
    assert clips.sample_ids() == ids
    found = list(rows_with(clips, [ids[5], ids[2]]))
    assert [row["name"] for row in found] == ["test0 frame 6", "test1 frame 3"]
    assert [row["sample_id"] for row in found] == [ids[2], ids[5]]


def test_samples_come_back_as_they_were(tmp_path):
    """Maps of one peer under the name of another."""
    for make in (segmented, looked_at):
        samples = [make(place, ["a", "b"]) for place in range(3)]
        write_pictures(tmp_path / "report" / "d", ["a", "b"], samples)
        assert read_pictures(tmp_path / "report" / "d", ["a", "b"]) == samples
    assert read_pictures(tmp_path / "none", ["a"]) == []
    with pytest.raises(OutputFolderError, match="d is damaged"):
        read_pictures(tmp_path / "report" / "d", ["a", "c"])
