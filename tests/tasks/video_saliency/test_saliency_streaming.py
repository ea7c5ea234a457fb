"""Videos of any length: streamed maps against whole windows, cuts, short videos, and the command that writes them."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from saliency_peers import tiny_saliency

from hf_mutual_kd import (
    ConfigError,
    DataError,
    OutputFolderError,
    PeerError,
    Streaming,
    VideoSaliencyProcessor,
    cut_distance,
    predict_video,
    stream_saliency,
)
from hf_mutual_kd.cli.main import main
from hf_mutual_kd.tasks.video_saliency.figures import overlay

SIZE = (20, 28)


def video(count, seed=0, dark=0):
    """Frames of noise; the first `dark` ones are another shot."""
    pixels = np.random.default_rng(seed).integers(128, 256, (count, *SIZE, 3), dtype=np.uint8)
    pixels[:dark] //= 4
    return pixels


def pair(kind="convnext", **changes):
    model = tiny_saliency(kind, **changes)
    return model, VideoSaliencyProcessor.for_model(model.config)


@torch.no_grad()
def offline(model, processor, frames, windows):
    """One forward for every frame on the whole window."""
    maps = [processor.post_process(model(**processor(frames[window])), SIZE)[0, 0] for window in windows]
    return torch.stack(maps).numpy()


def past(count, frames=4, stride=1):
    return [[max(0, t - k * stride) for k in reversed(range(frames))] for t in range(count)]


@pytest.mark.parametrize("kind", ["convnext", "dinov2", "videomae", "swin3d"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_streaming_equals_whole_windows(kind, batch_size):
    """A ring buffer that is off by one shows every map a frame late, which no shape test notices."""
    model, processor = pair(kind)
    frames = video(9)
    maps = list(stream_saliency(model, processor, frames=iter(frames), streaming=Streaming(batch_size=batch_size)))
    assert len(maps) == 9
    np.testing.assert_allclose(np.stack(maps), offline(model, processor, frames, past(9)), atol=1e-5)


def test_strides_and_targets():
    """Windows that ignore the distance of frames or the target give a model what it was not trained on."""
    frames = video(11)
    model, processor = pair(frame_stride=2)
    maps = np.stack(list(stream_saliency(model, processor, frames=frames)))
    np.testing.assert_allclose(maps, offline(model, processor, frames, past(11, stride=2)), atol=1e-5)
    model, processor = pair(target="center")
    windows = [[min(max(t + k, 0), 10) for k in (-2, -1, 0, 1)] for t in range(11)]
    maps = np.stack(list(stream_saliency(model, processor, frames=frames, streaming=Streaming(batch_size=2))))
    np.testing.assert_allclose(maps, offline(model, processor, frames, windows), atol=1e-5)


def test_a_reversed_start():
    """The first clips are made of what follows, latest first; at the end of a short video nothing may be missing."""
    model, processor = pair()
    frames = video(7)
    windows = [[min(t + k, 6) for k in (3, 2, 1, 0)] if t < 3 else [t - 3, t - 2, t - 1, t] for t in range(7)]
    maps = np.stack(list(stream_saliency(model, processor, frames=frames, streaming=Streaming("reverse"))))
    np.testing.assert_allclose(maps, offline(model, processor, frames, windows), atol=1e-5)
    short = np.stack(list(stream_saliency(model, processor, frames=frames[:2], streaming=Streaming("reverse"))))
    np.testing.assert_allclose(short, offline(model, processor, frames, [[1, 1, 1, 0], [1, 1, 1, 1]]), atol=1e-5)


def test_held_maps_between_predictions():
    """Frames that are skipped still need a map, or all later maps belong to the wrong frames."""
    model, processor = pair()
    frames = video(6)
    every = np.stack(list(stream_saliency(model, processor, frames=frames)))
    held = np.stack(
        list(stream_saliency(model, processor, frames=frames, streaming=Streaming(stride=4, batch_size=2)))
    )
    np.testing.assert_allclose(held, every[[0, 0, 0, 0, 4, 4]], atol=1e-5)


@pytest.mark.parametrize("start", ["repeat", "reverse"])
def test_shots_are_predicted_apart(start):
    """A clip across a cut shows the model a scene change that it takes for motion."""
    model, processor = pair()
    frames = video(10, dark=6)
    assert cut_distance(frames[5], frames[6]) > 0.9
    assert cut_distance(frames[6], frames[7]) < 0.3
    maps = list(stream_saliency(model, processor, frames=frames, streaming=Streaming(start)))
    apart = [
        m
        for part in (frames[:6], frames[6:])
        for m in stream_saliency(model, processor, frames=part, streaming=Streaming(start))
    ]
    np.testing.assert_allclose(maps, apart, atol=1e-5)
    through = np.stack(list(stream_saliency(model, processor, frames=frames, streaming=Streaming(cut_threshold=None))))
    assert np.abs(through[6] - maps[6]).max() > 1e-4


@pytest.mark.parametrize("kind", ["convnext", "videomae"])
def test_a_video_of_one_frame_and_of_none(kind):
    """A single picture is a video too; nothing in gives nothing out, not an error from a tensor library."""
    model, processor = pair(kind)
    (only,) = stream_saliency(model, processor, frames=[Image.fromarray(video(1)[0])])
    assert only.shape == SIZE
    assert only.max() == pytest.approx(1.0)
    assert list(stream_saliency(model, processor, frames=[])) == []


@pytest.mark.parametrize("start", ["repeat", "reverse"])
@pytest.mark.parametrize("kind", ["convnext", "videomae"])
def test_frames_are_read_when_needed(kind, start):
    """A stream that reads ahead without bound holds the whole film in memory."""
    model, processor = pair(kind)
    read = 0

    def frames():
        nonlocal read
        for frame in np.repeat(video(1), 30, 0):
            read += 1
            yield frame

    for number, _ in enumerate(
        stream_saliency(model, processor, frames=frames(), streaming=Streaming(start, batch_size=2))
    ):
        assert read <= number + 2 + (3 if start == "reverse" else 0)


def test_kinds_and_sizes_of_maps():
    """A density that was divided by its peak no longer sums to 1."""
    model, processor = pair()
    (density,) = stream_saliency(model, processor, frames=video(1), kind="density", size=(8, 9))
    assert density.shape == (8, 9)
    assert density.sum() == pytest.approx(1.0, abs=1e-5)


def test_impossible_options_are_refused():
    """A look-ahead start for a model that looks ahead already has no meaning."""
    model, processor = pair(target="center")
    for given, message in [
        ({"start": "mirror"}, "start must be"),
        ({"start": "reverse"}, "predict the last frame"),
        ({"stride": 0}, "stride"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(ConfigError, match=message):
            stream_saliency(model, processor, frames=video(2), streaming=Streaming(**given))


@pytest.fixture
def clip_file(tmp_path):
    """An odd number of columns, 25 frames in a second."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 21, 27, "bgr0"
        for pixels in np.random.default_rng(0).integers(0, 256, (6, 21, 27, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def model_folder(tmp_path):
    model, processor = pair()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_a_video(clip_file, model_folder, tmp_path, capsys):
    """An overlay of another length or rate than the video drifts away from its sound and its frames."""
    out = tmp_path / "over.mp4"
    assert main(["saliency", "predict", str(clip_file), "--model", str(model_folder), "--out", str(out)]) == 0
    assert "6 frames" in capsys.readouterr().out
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate) == (22, 28, 25)
        assert sum(1 for _ in container.decode(stream)) == 6


def test_the_command_writes_a_folder(clip_file, model_folder, tmp_path):
    """Maps as bytes lose what the deep ones keep; numbers that do not sort lose their frames."""
    out = tmp_path / "maps"
    assert main(["saliency", "predict", str(clip_file), "--model", str(model_folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["density", "maps", "overlay.mp4"]
    names = [f"{number:04d}.png" for number in range(1, 7)]
    assert sorted(path.name for path in (out / "maps").iterdir()) == names
    deep, flat = (np.asarray(Image.open(out / kind / "0006.png")) for kind in ("maps", "density"))
    assert deep.shape == flat.shape == (21, 27)
    assert (deep.dtype, deep.max(), flat.dtype, flat.max()) == (np.uint16, 65535, np.uint8, 255)


def test_a_folder_of_arrays(clip_file, tmp_path):
    """Arrays hold the density itself, which a picture cannot."""
    model, processor = pair()
    assert predict_video(model, processor, video=clip_file, out=tmp_path / "out", map_format="npy") == 6
    assert np.load(tmp_path / "out" / "maps" / "0001.npy").sum() == pytest.approx(1.0, abs=1e-4)


def test_endings_of_any_case(clip_file, tmp_path):
    """`film.MP4` became a folder of that name."""
    model, processor = pair()
    assert predict_video(model, processor, video=clip_file, out=tmp_path / "over.MP4") == 6
    assert (tmp_path / "over.MP4").is_file()


def test_a_broken_video_leaves_nothing(clip_file, tmp_path):
    """Half a folder looks like a short video."""
    model, processor = pair()
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(clip_file.read_bytes()[:3000])
    for out in ("out", "out.mp4"):
        with pytest.raises(DataError, match=r"broken\.mkv"):
            predict_video(model, processor, video=broken, out=tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mkv", "clip.mkv"]


def test_outputs_are_never_overwritten(clip_file, model_folder, tmp_path, capsys):
    """An hour of work would be gone at the first frame of the next."""
    (tmp_path / "old.mp4").write_text("mine")
    arguments = ["saliency", "predict", str(clip_file), "--model", str(model_folder), "--out"]
    assert main([*arguments, str(tmp_path / "old.mp4")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "old.mp4").read_text() == "mine"
    model, processor = pair()
    for out, message in ((tmp_path / "no" / "out", "no such folder"), (tmp_path / "out.avi", r"as \.mp4")):
        with pytest.raises(OutputFolderError, match=message):
            predict_video(model, processor, video=clip_file, out=out)


def test_other_models_are_refused(clip_file, tmp_path, make_peers):
    """A classifier would fail at the first frame with an attribute nobody knows."""
    from hf_mutual_kd.cli.saliency import load_for_prediction

    peer = make_peers("vit")["vit"]
    peer.model.save_pretrained(tmp_path / "vit")
    peer.processor.save_pretrained(tmp_path / "vit")
    with pytest.raises(PeerError, match="not a video saliency model"):
        load_for_prediction(str(tmp_path / "vit"))
    with pytest.raises(PeerError, match="cannot be loaded"):
        load_for_prediction(str(tmp_path / "nothing"))


def test_the_overlay_is_strongest_at_the_peak():
    """Colours over unlooked places would hide the picture and show nothing."""
    frame = np.full((1, 2, 3), 100, np.uint8)
    shown = overlay(frame, np.array([[0.0, 0.5]], np.float32))
    assert shown[0, 0].tolist() == [55, 55, 55]
    assert shown[0, 1, 0] > 180
