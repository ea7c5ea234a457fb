"""Reading videos: the frames that were asked for, the same from every reader, and errors that name the file."""

import io
import struct

import av
import numpy as np
import pytest
from datasets import Dataset, Features, Video
from PIL import Image
from saliency_files import H, W, mp4, numbers_of, picture, save_grey

from hf_mutual_kd import DataError
from hf_mutual_kd.data.frame_readers import frame_files
from hf_mutual_kd.data.video import PyAVReader, open_frames

ASKED = [7, 7, 0, 19, 13, 12, 11, 5, 18]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(mp4())
    return path


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "mpeg4"),
        ("avi", "mpeg4"),
        ("avi", "libx264"),
        ("matroska", "ffv1"),
        ("webm", "libvpx-vp9"),
        ("webm", "libvpx"),
        ("mpegts", "libx264"),
        ("mov", "libx264"),
        ("gif", "gif"),
    ],
)
def test_frames_have_the_right_numbers(kind, codec):
    """Seeking by time lands on a neighbour, and AVI counts in the order of decoding: the truth of another frame."""
    if codec == "gif":
        stream = io.BytesIO()
        pictures = [Image.fromarray(picture(number)) for number in range(20)]
        pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=40)
        content = stream.getvalue()
    else:
        content = mp4(codec=codec, kind=kind)
    with open_frames(content) as video:
        everything = np.stack(list(video))
        assert numbers_of(everything) == list(range(20))
        assert len(video) == 20
        assert video.fps == pytest.approx(25)
        got = video.frames(ASKED)
        assert np.array_equal(got, everything[ASKED])
        assert (got.dtype, got.shape) == (np.uint8, (len(ASKED), H, W, 3))
        assert np.array_equal(np.stack(list(video)), everything)
        assert np.array_equal(video.frames([3]), everything[[3]])


def test_readers_agree(file, tmp_path):
    """The same frames from a file, its bytes, a row and a folder, whichever way they are read."""
    with open_frames(file) as video:
        expected = video.frames(ASKED)
    rows = Dataset.from_dict(
        {"video": [{"bytes": file.read_bytes(), "path": None}, {"bytes": None, "path": str(file)}]}
    )
    rows = rows.cast(Features({"video": Video(decode=False)}))
    for source in (str(file), file.read_bytes(), rows[0]["video"], rows[1]["video"]):
        with open_frames(source) as video:
            assert np.array_equal(video.frames(ASKED), expected)
    for number in range(20):
        save_grey(tmp_path / "frames" / f"frame{number}.png", picture(number))
    with open_frames(tmp_path / "frames") as folder:
        assert np.array_equal(folder.frames(ASKED), np.stack([picture(number) for number in ASKED]))
        assert np.abs(folder.frames(ASKED).astype(int) - expected).mean() < 3
        assert numbers_of(folder) == list(range(20))


def test_folders_are_sorted_by_number(tmp_path):
    """`os.listdir` and text order put frame 10 before frame 2."""
    for number in (10, 2, 1, 9):
        save_grey(tmp_path / f"img_{number}.png", picture(number))
    save_grey(tmp_path / ".hidden.png", picture(0))
    (tmp_path / "notes.txt").write_text("no frame")
    assert [file.name for file in frame_files(tmp_path)] == ["img_1.png", "img_2.png", "img_9.png", "img_10.png"]
    assert numbers_of(open_frames(tmp_path)) == [1, 2, 9, 10]


def test_clips_are_shrunk_alike(file):
    """Full HD clips fill the memory; both ways of reading must shrink by the same rule."""
    with open_frames(file, max_side=32) as video:
        assert video.frames([3, 4]).shape == (2, 24, 32, 3)
        assert next(iter(video)).shape == (24, 32, 3)
        assert numbers_of(video.frames([3, 4])) == [3, 4]
    assert open_frames(file, max_side=1000).frames([0]).shape == (1, H, W, 3)


def test_phone_videos_are_upright(tmp_path):
    """A portrait video is stored lying, with a note in its header; its gaze is recorded upright."""
    content = bytearray(mp4())
    matrix = content.index(b"tkhd") + 4 + 40
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = turned
    frame = open_frames(bytes(content)).frames([10])[0]
    assert frame.shape == (W, H, 3)
    # Turned clockwise, the black top left quarter comes to the top right.
    dark = {"top left": frame[:20, :20], "top right": frame[:20, -20:], "bottom left": frame[-20:, :20]}
    assert min(dark, key=lambda corner: dark[corner].mean()) == "top right"


def test_odd_sizes_and_one_frame():
    """Rows of an odd width are padded in the decoder: read as they lie they slant."""
    frames = open_frames(mp4([3], codec="ffv1", kind="matroska", size=(33, 51))).frames([0, 0])
    assert np.abs(frames[1].astype(int) - picture(3, 33, 51)).max() <= 2


def header_alone() -> bytes:
    """A video of no frames."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="avi") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = W, H, "yuv420p"
        container.start_encoding()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the video is empty"),
        (b"no video at all" * 50, "cannot be read as a video"),
        (mp4()[:900], "cannot"),
        (header_alone(), "holds no|cannot be read"),
        (mp4(kind="matroska")[:1000], "."),
    ],
    ids=["empty", "no video", "cut off", "header alone", "Matroska cut off"],
)
def test_broken_videos_name_the_file(content, message, tmp_path):
    """A broken file in row 70,000 must not be a bare error from C."""
    for source in ({"bytes": content, "path": "some/where/bad.mp4"}, content):
        with pytest.raises(DataError, match=message) as error, open_frames(source) as video:
            assert len(video.frames([0, 19])) == 2
        assert ("bad.mp4" if isinstance(source, dict) else "video") in str(error.value)
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(DataError, match="bad.mp4"), open_frames(tmp_path / "bad.mp4") as video:
        video.frames([0, 19])


def test_cut_off_mp4_is_found():
    """A download that stopped: the header promises frames that are not there, and repeating the last one hides it."""
    stream = io.BytesIO(mp4(codec="mpeg4"))
    whole = stream.getvalue()
    moov = whole.index(b"moov") - 4
    # The header moved before the data, as for streaming, with offsets that point behind it.
    head = bytearray(whole[moov:])
    place = head.index(b"stco") + 8
    count = struct.unpack(">I", head[place : place + 4])[0]
    for entry in range(count):
        at = place + 4 + 4 * entry
        head[at : at + 4] = struct.pack(">I", struct.unpack(">I", head[at : at + 4])[0] + len(head))
    first = whole.index(b"mdat") - 4
    content = whole[:first] + bytes(head) + whole[first:moov]
    assert numbers_of(open_frames(content)) == list(range(20))
    with pytest.raises(DataError, match="header counts 20 frames, but .* the file is cut off"):
        len(open_frames(content[:-400]))
    with pytest.raises(DataError, match="the file is cut off|cannot be decoded"):
        list(open_frames(content[:-400]))


def test_requests_beyond_the_video(file, tmp_path):
    """A wrong count between frames and maps must not read the last frame again and again."""
    with open_frames(file) as video:
        for numbers in ([20], [-1], []):
            with pytest.raises(DataError, match="clip.mp4: frames .* were asked for, it has 20"):
                video.frames(numbers)
    for source, message in (
        (tmp_path / "none.mp4", "none.mp4: no such video"),
        ({"path": None, "bytes": None}, "the row has no video"),
        (tmp_path, "."),
    ):
        with pytest.raises(DataError, match=message):
            open_frames(source).frames([0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder holds no frames"):
        open_frames(tmp_path / "empty")


def test_frames_of_two_sizes(tmp_path):
    """Two sizes in one folder: stacking them raises far from the cause."""
    save_grey(tmp_path / "1.png", picture(1))
    save_grey(tmp_path / "2.png", picture(2, 20, 20))
    with pytest.raises(DataError, match="frame 1 has 20 x 20 pixels, the others 48 x 64"):
        open_frames(tmp_path).frames([0, 1])


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile clip.mp4\n"]
)
def test_play_lists_are_not_followed(file, text):
    """A "video" that names other files would read them, from disk or from the net."""
    path = file.with_name("list.mp4")
    path.write_text(text)
    with pytest.raises(DataError, match="list.mp4"):
        open_frames(path).frames([0])
    with pytest.raises(DataError):
        open_frames("concat:" + str(file))


def test_frames_without_bound_are_refused(monkeypatch, file):
    """A few bytes may hold a frame that fills the memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"clip.mp4: (frames of 3072 pixels|cannot be read)"):
        open_frames(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(open_frames(file)) == 20


def test_sound_alone_is_no_video(tmp_path):
    """A file without pictures must say so."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(sound.encode(frame))
    with pytest.raises(DataError, match="holds no video stream"):
        open_frames(stream.getvalue())


def test_going_through_a_video_keeps_no_frames(file):
    """Streaming a film must hold one frame, and ask for no index first."""
    video = open_frames(file)
    assert isinstance(video, PyAVReader)
    frames = iter(video)
    assert numbers_of([next(frames), next(frames)]) == [0, 1]
    assert video._index is None


ONE = 1 << 16
DISPLAYED = {
    (ONE, 0, 0, ONE): lambda frame: frame,
    (-ONE, 0, 0, ONE): np.fliplr,
    (ONE, 0, 0, -ONE): np.flipud,
    (-ONE, 0, 0, -ONE): lambda frame: np.rot90(frame, 2),
    (0, ONE, -ONE, 0): lambda frame: np.rot90(frame, -1),
    (0, -ONE, ONE, 0): np.rot90,
    (0, ONE, ONE, 0): lambda frame: frame.swapaxes(0, 1),
    (0, -ONE, -ONE, 0): lambda frame: np.rot90(frame, 2).swapaxes(0, 1),
}
"""By `a b c d` of the display matrix."""


@pytest.mark.parametrize("matrix", DISPLAYED)
def test_mirrored_videos_are_not_taken_for_turned_ones(matrix):
    """The camera of a phone's front mirrors; read as half a turn, gaze lies on the other side."""
    content = bytearray(mp4([3, 7]))
    plain = open_frames(bytes(content)).frames([1])[0]
    a, b, c, d = matrix
    place = content.index(b"tkhd") + 4 + 40
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    shown = open_frames(bytes(content)).frames([1])[0]
    assert np.array_equal(shown, DISPLAYED[matrix](plain))


def drifting(codec: str, kind: str, hidden: tuple[int, ...] = (), pix_fmt: str = "yuv420p", **options: str) -> bytes:
    """40 frames that all differ, with a key frame every 10; the bit `show_frame` of some VP8 packets is cleared."""
    wide = np.random.default_rng(0).integers(0, 255, (H // 8, W // 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = H, W, pix_fmt
        video.codec_context.gop_size = 10
        made = [video.encode(av.VideoFrame.from_ndarray(wide[:, n : n + W], format="rgb24")) for n in range(40)]
        for number, packet in enumerate([one for some in [*made, video.encode()] for one in some]):
            if number not in hidden:
                container.mux(packet)
                continue
            content = bytearray(bytes(packet))
            content[0] &= ~0x10
            blind = av.Packet(bytes(content))
            blind.pts, blind.dts, blind.time_base, blind.stream = packet.pts, packet.dts, packet.time_base, video
            container.mux(blind)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: drifting("libvpx", "webm", hidden=(5, 17, 18)), id="vp8 with hidden frames"),
        pytest.param(lambda: drifting("libvpx-vp9", "webm", **{"lag-in-frames": "16", "cpu-used": "8"}), id="vp9"),
        pytest.param(lambda: drifting("libx264", "mp4", bf="3"), id="h264"),
        pytest.param(lambda: drifting("libx264", "mpegts", bf="3"), id="h264 in ts"),
        pytest.param(lambda: drifting("libx265", "mp4", **{"x265-params": "log-level=none"}), id="hevc"),
        pytest.param(lambda: drifting("mpeg1video", "mpeg", bf="2"), id="mpeg1 program stream"),
        pytest.param(lambda: drifting("mpeg2video", "mpeg", bf="2"), id="mpeg2 program stream"),
        pytest.param(lambda: drifting("mpeg4", "avi", bf="2"), id="mpeg4 in avi"),
        pytest.param(lambda: drifting("prores_ks", "mov", pix_fmt="yuv422p10le"), id="prores"),
        pytest.param(lambda: drifting("gif", "gif", pix_fmt="rgb8"), id="gif"),
    ],
)
def test_frame_numbers_are_those_of_a_full_decode(content):
    """After a hidden frame, or after a seek, the neighbor stands beside the gaze of the frame that was asked for."""
    content = content()
    with av.open(io.BytesIO(content)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_frames(content) as video:
        assert len(video) == len(whole)
        order = np.random.default_rng(1).permutation(len(whole)).tolist()
        assert [n for n in order if not np.array_equal(video.frames([n])[0], whole[n])] == []
        assert all(np.array_equal(seen, frame) for seen, frame in zip(video, whole, strict=True))


def test_hidden_frames_are_not_counted():
    """40 packets of which 3 are never shown are 37 frames."""
    assert len(open_frames(drifting("libvpx", "webm", hidden=(5, 17, 18)))) == 37
