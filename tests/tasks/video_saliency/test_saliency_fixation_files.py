"""Fixations as people store them: what is no fixated pixel is refused by name, or 3 fixations become 2,304."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from saliency_files import H, W, gaze_folder, picture, save_grey
from scipy.io import savemat

from hf_mutual_kd import DataError, RecipeOptions, SaliencyOptions, load_videos
from hf_mutual_kd.data.masks import decode_mask
from hf_mutual_kd.tasks.video_saliency.data.fixation_files import read_fixations
from hf_mutual_kd.tasks.video_saliency.data.fixations import check_points
from hf_mutual_kd.tasks.video_saliency.data.map_files import read_map
from hf_mutual_kd.tasks.video_saliency.data.truth import check_aspect
from hf_mutual_kd.tasks.video_saliency.metrics.scores import SaliencyScores
from hf_mutual_kd.tasks.video_saliency.score_folders import GroundTruth, evaluate_folders

POINTS = [(5, 9), (20, 40), (40, 11)]


def marked(value=255):
    pixels = np.zeros((H, W), np.uint8)
    for point in POINTS:
        pixels[point] = value
    return pixels


def places(found):
    return [tuple(point) for point in np.argwhere(found).tolist()]


def written(path, kind):
    image = Image.fromarray(marked())
    if kind == "alpha":
        image = Image.merge("LA", (Image.new("L", image.size, 255), image))
    elif kind == "opaque":
        image = Image.merge("LA", (image, Image.new("L", image.size, 255)))
    elif kind == "smooth":
        image = image.filter(ImageFilter.GaussianBlur(0.8))
    elif kind == "inverted":
        image = Image.fromarray(255 - marked())
    elif kind == "counts":
        image = Image.fromarray(marked(3) - (marked(1) * (np.arange(W) == 9)))
    path = path / (f"{kind}.jpg" if kind == "jpeg" else f"{kind}.png")
    image.save(path, **({"quality": 80} if kind == "jpeg" else {}))
    return path


@pytest.mark.parametrize("kind", ["plain", "alpha", "opaque", "counts"])
def test_marked_pixels_are_the_fixations(tmp_path, kind):
    """Read from the colours of an image whose alpha channel holds them, nothing or everything is fixated."""
    assert places(read_fixations(written(tmp_path, kind))) == POINTS


@pytest.mark.parametrize("kind", ["jpeg", "smooth"])
def test_greys_are_fixations_only_where_the_user_says_so(tmp_path, kind):
    """Every grey above 0 that counts makes 27 to 2,304 fixations of 3, and all scores with them."""
    path = written(tmp_path, kind)
    with pytest.raises(DataError, match=r"holds \d+ values .*--fixation_maxima true"):
        read_fixations(path)
    assert places(read_fixations(path, maxima=True)) == POINTS


def test_more_fixations_than_people_make_are_refused(tmp_path):
    """Black on white, or a density in the place of fixations, is a number that nobody questions."""
    with pytest.raises(DataError, match="marks 3,069 of 3,072 pixels .*looks inverted"):
        read_fixations(written(tmp_path, "inverted"))
    many = np.zeros((H, W), np.uint8)
    many[:8] = 1
    save_grey(tmp_path / "many.png", many)
    with pytest.raises(DataError, match="marks 512 of 3,072 pixels as fixated, more than 1%"):
        read_fixations(tmp_path / "many.png")
    assert not read_map(tmp_path / "many.png")[8:].any()
    save_grey(tmp_path / "blank.png", np.zeros((H, W), np.uint8))
    assert not read_fixations(tmp_path / "blank.png").any()


def test_maps_in_the_alpha_channel(tmp_path):
    """Read from its colours such a map is blank, and the frame is left out of every mean."""
    density = np.arange(H * W, dtype=np.uint32).reshape(H, W) * 255 // (H * W)
    density = density.astype(np.uint8)
    for colour in (0, 255):
        pixels = np.dstack([np.full((H, W, 3), colour, np.uint8), density])
        Image.fromarray(pixels).save(tmp_path / "map.png")
        assert np.array_equal(read_map(tmp_path / "map.png"), density)
    Image.fromarray(np.dstack([density[::-1]] * 3 + [density])).save(tmp_path / "map.png")
    with pytest.raises(DataError, match="alpha channel that says something else"):
        read_map(tmp_path / "map.png")


def test_files_are_named_and_scored_alike(tmp_path):
    """A loader that refuses what the scores of a folder take, or reads it otherwise, gives two truths of one file."""
    root, said = tmp_path / "truth", tmp_path / "said"
    for number in (1, 2, 3, 601):
        gaze_folder(root / f"{number:04d}")
    spoiled = root / "0601" / "fixation" / "0002.png"
    Image.fromarray(marked()).filter(ImageFilter.GaussianBlur(0.8)).save(spoiled)
    options = RecipeOptions(dataset=f"dhf1k:{root}")
    with pytest.raises(DataError, match=r"0601/fixation/0002.png: holds \d+ values"):
        load_videos(options, seed=0).test[0].truth.points(1)
    by_maxima = load_videos(SaliencyOptions(dataset=f"dhf1k:{root}", fixation_maxima=True), seed=0).test[0]
    assert by_maxima.truth.points(1).tolist() == [list(point) for point in POINTS]
    for number in range(1, 6):
        save_grey(said / "0601" / f"{number}.png", picture(number)[..., 0])
    with pytest.raises(DataError, match=r"0601/fixation/0002.png: holds \d+ values"):
        evaluate_folders(said, GroundTruth(root, videos=["0601"]), SaliencyScores(metrics=["nss"]))
    found = evaluate_folders(said, GroundTruth(root, videos=["0601"], fixation_maxima=True), SaliencyScores(["nss"]))
    assert found["frames"] == 5


def test_maps_of_another_aspect_than_their_frames_are_refused(tmp_path):
    """Stretched over the frame, every fixation lies beside what was looked at."""
    for number in (1, 2, 3, 601):
        gaze_folder(tmp_path / f"{number:04d}")
    for kind in ("maps", "fixation"):
        for path in (tmp_path / "0002" / kind).iterdir():
            save_grey(path, np.asarray(Image.open(path)).T)
    with pytest.raises(DataError, match=r"0002/maps: the size of the gaze is 64 x 48 .*frames' 48 x 64"):
        load_videos(RecipeOptions(dataset=f"dhf1k:{tmp_path}"), seed=0)
    for size in ((24, 32), (25, 32), (360, 480), (1088, 1440)):
        check_aspect(size, (H, W))
    with pytest.raises(DataError, match=r"it looks like \[W, H\]"):
        check_aspect((640, 480), (H, W))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([[30, 20], [60, 20], [63, 12], [50, 40]], "75.0% of the 4 .*columns from 12 to 40.* x before y"),
        ([[0.2, 0.9], [0.5, 0.5]], "look like shares of the frame, 0 to 1"),
        ([[200, 300], [10, 10], [np.nan, 3]], "66.7% .*1 are NaN.*another size: say it by `size`"),
        ([[np.nan, np.nan]], "all 1 fixations are NaN"),
    ],
)
def test_rows_that_are_no_pixels_are_refused(points, words):
    """Gaze that lies beside the frame is left out point by point, and a model learns from what is left."""
    with pytest.raises(ValueError, match=words):
        check_points(np.array(points, np.float32), (H, W))


def test_a_few_points_beside_the_screen_are_usual():
    """A data set whose observers looked away once would be refused."""
    inside = np.random.default_rng(0).uniform((0, 0), (H - 1, W - 1), (60, 2)).astype(np.float32)
    check_points(np.concatenate([inside, [[50, 20], [np.nan, np.nan], [-4, 70]]]).astype(np.float32), (H, W))
    check_points(np.zeros((0, 2), np.float32), (H, W))


def test_matlab_of_version_73(tmp_path):
    """HDF5 stores columns first; read as it lies there, every fixation is mirrored at the diagonal."""
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["I"] = (marked() // 255).T.astype(float)
        file["link"] = h5py.ExternalLink("/etc/hosts", "I")
    with open(tmp_path / "a.mat", "r+b") as file:
        file.write(header)
    assert places(read_fixations(tmp_path / "a.mat")) == POINTS
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file["I"] = h5py.ExternalLink("a.mat", "I")
    with pytest.raises(DataError, match="expected a full matrix"):
        read_map(tmp_path / "b.mat")
    (tmp_path / "c.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:900])
    with pytest.raises(DataError, match="damaged"):
        read_map(tmp_path / "c.mat")


def test_variables_of_another_name_are_listed(tmp_path):
    """ "No matrix I" says nothing to somebody whose files hold eyeMap."""
    savemat(tmp_path / "a.mat", {"eyeMap": marked(), "fps": 25.0})
    with pytest.raises(DataError, match="holds no matrix I; it has eyeMap, fps"):
        read_map(tmp_path / "a.mat")
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file["eyeMap"] = marked()
    with pytest.raises(DataError, match="holds no matrix I; it has eyeMap"):
        read_map(tmp_path / "b.mat")


def test_a_mask_in_a_type_that_numpy_lacks_is_refused_in_our_words():
    """`Got unsupported ScalarType BFloat16` names neither the mask nor what is expected."""
    with pytest.raises(DataError, match=r"whole numbers \[H, W\] as a mask, got torch.bfloat16 \[2, 3\]"):
        decode_mask(torch.zeros(2, 3, dtype=torch.bfloat16))
