"""Clip policies: hand values, short videos, shots, and draws that every process makes alike."""

import subprocess
import sys

import numpy as np
import pytest

from hf_mutual_kd import ClipPolicy, ConfigError, clip_frames, fixation_density
from hf_mutual_kd.tasks.video_saliency.data.clips import (
    evaluation_targets,
    shot_of,
    training_target,
)
from hf_mutual_kd.tasks.video_saliency.data.fixations import FixationList, fixation_map, fixation_points

LENGTHS = (1, 5, 31, 32, 33)

TMFI_NET = VINET_S = ClipPolicy(32)
"""32 frames that end with the target (Bi-KD's loader: files g-30 .. g+1 for the 0-based target g)."""

VINET_A = ClipPolicy(32, stride=2, target="center")
"""Every 2nd frame from 32 before the target to 30 after it (Bi-KD's loader: files g-31+2k, the truth is g+1)."""


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("policy", [TMFI_NET, VINET_S, VINET_A, ClipPolicy(7, 3), ClipPolicy(offsets=(-50, 3, 0))])
def test_short_videos_give_whole_clips(length, policy):
    """A video shorter than the clip must not raise (`randint(0, n - 32)`), wrap around or read beyond its end."""
    for target in range(length):
        clip = clip_frames(target, range(length), policy=policy)
        assert len(clip) == policy.frames
        assert set(clip) <= set(range(length))
        assert target in clip


@pytest.mark.parametrize("length", LENGTHS)
def test_past_only_repeats_the_first_frame(length):
    """Files g-30 .. g+1, below 1 the first: reversed or wrapped padding shows the model frames that never were."""
    for target in range(length):
        expected = [max(file, 1) - 1 for file in range(target - 30, target + 2)]
        assert clip_frames(target, range(length), policy=TMFI_NET) == expected


@pytest.mark.parametrize("length", LENGTHS)
def test_centred_with_stride_is_the_authors_loader(length):
    """Files g-31+2k clamped to [1, n]: off by one, the truth would belong to the frame before."""
    for target in range(length):
        expected = [min(max(target - 31 + 2 * k, 1), length) - 1 for k in range(32)]
        clip = clip_frames(target, range(length), policy=VINET_A)
        assert clip == expected
        assert clip[16] == target


def test_hollywood2_windows():
    """List index g: TMFI-Net g-31 .. g, ViNet-A g-16 .. g+15, and never a frame of the neighbouring shot."""
    shot = shot_of(140, 300, cuts=(100, 150))
    assert shot == range(100, 150)
    assert clip_frames(140, shot, policy=ClipPolicy(32)) == list(range(109, 141))
    assert clip_frames(130, shot, policy=ClipPolicy(32, target="center")) == list(range(114, 146))
    assert clip_frames(149, shot, policy=ClipPolicy(32, target="center"))[-16:] == [149] * 16
    assert clip_frames(100, shot, policy=ClipPolicy(3)) == [100, 100, 100]


def test_shots():
    """A target on a cut belongs to the shot that begins there."""
    assert shot_of(3, 10) == range(10)
    assert shot_of(0, 10, (0, 4)) == range(4)
    assert shot_of(3, 10, (4,)) == range(4)
    assert shot_of(4, 10, (4,)) == range(4, 10)
    assert shot_of(9, 10, (4, 9)) == range(9, 10)


def test_own_policies():
    """A user's offsets keep their order, a user's function is held to the shot, too."""
    assert clip_frames(5, range(10), policy=ClipPolicy(offsets=(0, -2, 9))) == [5, 3, 9]
    assert clip_frames(5, range(10), policy=lambda target, shot: [target - 9, target, shot.stop + 4]) == [0, 5, 9]
    assert ClipPolicy(offsets=[-1, 0]) == ClipPolicy(frames=2, offsets=(-1, 0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClipPolicy(0),
        lambda: ClipPolicy(4, stride=0),
        lambda: ClipPolicy(4, target="first"),
        lambda: ClipPolicy(offsets=()),
        lambda: ClipPolicy(offsets=(0.5,)),
        lambda: clip_frames(5, range(5), policy=ClipPolicy(2)),
        lambda: clip_frames(2, range(5), policy=lambda target, shot: []),
        lambda: evaluation_targets(range(5), 0),
    ],
)
def test_policies_that_make_no_clip(make):
    """A wrong policy must end before the training."""
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(("length", "expected"), [(1, [0]), (32, [0]), (33, [0, 32]), (100, [0, 32, 64, 96])])
def test_evaluation_targets(length, expected):
    """A short video is evaluated, too."""
    assert evaluation_targets(range(length), 32) == expected


def test_training_targets_are_pure():
    """Python's `hash` of a text differs between processes: two ranks would train on different frames."""
    drawn = [training_target(range(600), 3, epoch, "0001") for epoch in range(200)]
    assert drawn == [training_target(range(600), 3, epoch, "0001") for epoch in range(200)]
    assert len(set(drawn)) > 150
    assert np.ptp(drawn) > 500
    assert drawn != [training_target(range(600), 3, epoch, "0002") for epoch in range(200)]
    module = "hf_mutual_kd.tasks.video_saliency.data.clips"
    code = f"from {module} import training_target as t; print(t(range(600), 3, 7, '0001'))"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) == drawn[7]


def test_density_of_points():
    """By hand: two equal bells; a flipped axis or a lost tail shows at once."""
    density = fixation_density(np.array([[2, 3], [2, 3]]), (5, 9), sigma=1.0)
    y, x = np.mgrid[:5, :9]
    bell = np.exp(-((y - 2) ** 2 + (x - 3) ** 2) / 2)
    assert density.dtype == np.float32
    assert np.allclose(density, bell / bell.sum(), atol=1e-7)
    both = fixation_density(np.array([[0.4, 1.2], [4, 8]]), (5, 9), sigma=0.8)
    parts = [np.exp(-((y - r) ** 2 + (x - c) ** 2) / 1.28) for r, c in ((0.4, 1.2), (4, 8))]
    assert np.allclose(both, sum(parts) / sum(parts).sum(), atol=1e-7)
    assert both.sum() == pytest.approx(1, abs=1e-6)


def test_points_outside_and_none():
    """A blank frame is 0 everywhere, never NaN; points outside the frame do not wrap to its other side."""
    for points in (np.zeros((0, 2)), [], np.array([[-1, 2], [5, 0], [0, 9]])):
        assert not fixation_density(points, (5, 9), sigma=1.0).any()
        assert not fixation_map(points, (5, 9)).any()
    marked = fixation_map(np.array([[0, 8], [4.4, 0.6], [0, 8]]), (5, 9))
    assert np.argwhere(marked).tolist() == [[0, 8], [4, 1]]
    assert np.array_equal(fixation_map(fixation_points(marked), (5, 9)), marked)
    with pytest.raises(ValueError, match="above 0"):
        fixation_density(np.zeros((1, 2)), (5, 9), sigma=0.0)
    with pytest.raises(ValueError, match=r"\[K, 2\]"):
        fixation_density(np.zeros((1, 3)), (5, 9), sigma=1.0)


def test_fixation_lists():
    """Frames of different counts, also of none, keep their own points."""
    fixations = FixationList([[[1, 2]], [], [[3, 4], [5, 6]]])
    assert len(fixations) == 3
    assert [fixations[frame].tolist() for frame in range(3)] == [[[1, 2]], [], [[3, 4], [5, 6]]]
    for wrong in ([1, 2], [[1, 2]], [[[1, 2, 3]] * 2], [[["a", "b"]]], [[[1, 2], [3]]], None):
        with pytest.raises(ValueError, match="fixations must be .*pairs"):
            FixationList(wrong)
