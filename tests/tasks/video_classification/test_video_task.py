"""Videos from a stretch to an answer: one geometry for all peers, each peer's own frames, what is refused."""

import numpy as np
import pytest
import torch
from conftest import tiny_processor
from datasets import Dataset
from video_peers import MOVES, made_clip, mp4_of, save_video_peers, tiny_video_peer, video_cohort, video_rows

from hf_mutual_kd import Cohort, ConfigError, DataError, PeerError, VideoClassification
from hf_mutual_kd.config.options import RecipeOptions
from hf_mutual_kd.data.collator import undecoded
from hf_mutual_kd.data.inputs import check_inputs
from hf_mutual_kd.data.splits import load_splits
from hf_mutual_kd.tasks.video_classification.collator import VideoCollator, frames_of
from hf_mutual_kd.tasks.video_classification.film import FILMS, SharedStretch, even_frames, read_film

KINDS = ("videomae", "timesformer", "vivit", "vjepa2")


def numbered(count: int = 16) -> bytes:
    """A video whose frames are as bright as their number says, darker at the left."""
    frames = np.zeros((count, 32, 48, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:] = 20 + 12 * number
        frame[:, :20] = 0
    return mp4_of(frames)


def brightest(frames: torch.Tensor) -> list[int]:
    """The numbers of frames `[T, 3, H, W]` of it."""
    return [round((float(frame.max()) - 20) / 12) for frame in frames.float()]


def test_frames_are_those_of_the_processors_of_transformers():
    """Answers of a run that the stock pipeline, which takes other frames, does not repeat."""
    for total, wanted in ((13, 8), (3, 8), (64, 16), (7, 7)):
        assert even_frames(0, total, wanted) == (np.arange(wanted) * total // wanted).tolist()
    film = read_film(numbered()).loaded([4, 8])
    assert brightest(film.shown(4)) == [0, 4, 8, 12]
    assert brightest(film.shown(8)) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_a_stretch_depends_on_seed_epoch_and_sample_alone():
    """Peers, workers or resumed runs that see different stretches, crops or sides of one video."""
    film, stretch = read_film(numbered()), SharedStretch(1.0, seed=3, color_jitter=0.5)
    first = stretch(film, sample_id=7, epoch=1).loaded([4]).shown(4)
    torch.rand(5)
    assert torch.equal(stretch(film, sample_id=7, epoch=1).loaded([4]).shown(4), first)
    drawn = [stretch(film, sample, epoch) for sample in range(4) for epoch in range(4)]
    assert len({(one.begin, one.box) for one in drawn}) == 16
    assert {one.count for one in drawn} == {8}
    assert {one.box.mirrored for one in drawn} == {True, False}
    for one in drawn:
        shape = one.loaded([4]).shown(4).shape
        assert 0.6 * 32 * 48 * 0.9 < shape[2] * shape[3] <= 32 * 48
    with pytest.raises(ConfigError, match="min_area"):
        SharedStretch(1.0, 0)


def test_all_peers_see_one_geometry_each_its_own_frames():
    """A teacher that saw another corner of the scene, or another second, than its student."""
    said = {}

    def viewer(count):
        def see(videos):
            said[count] = videos
            return {"pixel_values": torch.zeros(len(videos), count)}

        see.num_frames = count
        return see

    view = SharedStretch(1.0)
    VideoCollator({"a": viewer(4), "b": viewer(8)}, view=view)([{"video": numbered(), "label": 0, "sample_id": 5}])
    (few,), (many,) = said[4], said[8]
    assert torch.equal(few, many[::2])
    assert brightest(many) == list(range(brightest(many)[0], brightest(many)[0] + 8))


def test_every_kind_of_peer_takes_part(tmp_path):
    """A model whose inputs are called otherwise, or whose processor takes another number of frames."""
    cohort = Cohort.from_pretrained(save_video_peers(tmp_path, KINDS), "video-classification", label_names=MOVES)
    assert [frames_of(cohort.processors[name]) for name in KINDS] == [8, 4, 4, 8]
    rows = list(undecoded(video_rows(2)))
    together, alone = cohort.predict(rows), cohort.predict(rows[1:])
    for name in KINDS:
        torch.testing.assert_close(together[name][1], alone[name][0])
    given = made_clip(1, np.random.default_rng(0))
    assert cohort.predict([mp4_of(given)])["cohort"].shape == (1, 3)
    cohort.save_pretrained(tmp_path / "out")
    again = Cohort.from_pretrained(tmp_path / "out", "video-classification")
    torch.testing.assert_close(again.predict(rows)["vjepa2"], together["vjepa2"])


def test_what_cannot_take_part_is_named(tmp_path):
    """A peer that is given other frames than it has positions for, or pixels of single images."""
    task = VideoClassification()
    model, processor = tiny_video_peer("videomae")
    with pytest.raises(PeerError, match="no video processor.*--peers.a.processor"):
        task.check_peer("a", model, tiny_processor())
    processor.num_frames = 5
    with pytest.raises(PeerError, match="sees 8 frames, and its processor takes 5"):
        task.check_peer("a", model, processor)
    with pytest.raises(ConfigError, match="unknown option scale_range: an option of semantic-segmentation"):
        VideoClassification(scale_range=[1.0, 1.0])
    with pytest.raises(PeerError, match="no video processor.*callable videos"):
        VideoCollator({"a": None})


def test_rows_are_named_left_out_or_refused(tmp_path):
    """A damaged video that ends a run after hours, or a data set that names any file of the machine."""
    whole = numbered()
    made = Dataset.from_list([{"video": {"bytes": one, "path": None}, "label": 0} for one in (whole, whole[:300])])
    with pytest.raises(DataError, match=r"train row 1: .*--on_bad_row skip"):
        check_inputs(made, "train", inputs=FILMS)
    assert check_inputs(made, "train", "skip", inputs=FILMS)[1] == 1
    with pytest.raises(DataError, match="nothing"):
        read_film(None)
    collator = VideoCollator(video_cohort().processors, on_bad_row="skip", keep_places=True)
    batch = collator([{**row, "sample_id": place} for place, row in enumerate(made)])
    assert batch["labels"].tolist() == [0, -2]
    assert len(batch["peer_inputs"]["videomae"]["pixel_values"]) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.mp4").write_bytes(whole)
    named = Dataset.from_dict({"video": [str(tmp_path / "secret.mp4")] * 9, "label": [0, 1, 2] * 3})
    named.to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(DataError, match="outside of the data set"):
        load_splits(RecipeOptions(dataset=str(tmp_path / "data"), label_names=MOVES), seed=0, inputs=FILMS)
