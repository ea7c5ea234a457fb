"""Saliency metrics by hand, against pysaliency, by their definitions over pairs, and over frames and processes."""

from __future__ import annotations

import itertools
import json
import math
import time

import evaluate
import numpy as np
import pytest
import torch

from hf_mutual_kd import ConfigError, DataError
from hf_mutual_kd.tasks.video_saliency.metrics import functions as saliency
from hf_mutual_kd.tasks.video_saliency.metrics.maps import dhf1k_protocol, rescale_counts, resize_map
from hf_mutual_kd.tasks.video_saliency.metrics.scores import METRICS, SaliencyScores

PYSALIENCY = {
    "float": (
        0.875471753088048,
        0.7928045634370782,
        0.4654076614521542,
        0.8126822174593462,
        0.7986111111111112,
        0.7993907745865971,
        0.8055555555555556,
    ),
    "8 bits": (
        0.8747330129553651,
        0.792790805498748,
        0.4649526395006298,
        0.8139453804324293,
        0.7983579282407408,
        0.7991369306643458,
        0.8066239316239316,
    ),
    "5 levels": (
        0.7843569347077519,
        0.7510804941167109,
        0.4210380047869853,
        0.948313046176462,
        0.6748408564814815,
        0.6752973600232085,
        0.6720085470085471,
    ),
}
"""
NSS, CC, SIM, KLD, AUC uniform, AUC-Judd's and shuffled negatives of [`example`], printed by pysaliency 0.2.22: `NSS`,
`CC`, `SIM`, `MIT_KLDiv` of metrics.py and `general_roc_numba` of numba_utils.py (with numpy's trapezoid for trapz).
"""


def example():
    """Prediction, density, fixations and pool of 36 x 64 pixels, from formulas."""
    rows, columns = np.mgrid[0:36, 0:64]
    prediction = np.exp(-((rows - 12) ** 2 / 50 + (columns - 40) ** 2 / 90)) + 0.2
    prediction += 0.3 * np.exp(-((rows - 25) ** 2 + (columns - 15) ** 2) / 60)
    density = np.exp(-((rows - 14) ** 2 + (columns - 36) ** 2) / 70)
    fixations = ((rows * 7 + columns * 13) % 97 == 0) & (density > 0.05)
    pool = ((rows * 5 + columns * 11) % 61 == 0) * (1 + rows % 3)
    return prediction, density, fixations, pool


def levels(prediction, highest):
    return np.floor(prediction / prediction.max() * highest + 0.5).astype(np.uint8)


def by_pairs(positives, negatives):
    """The definition of the area, over all pairs."""
    difference = np.subtract.outer(positives.astype(float), negatives.astype(float))
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


@pytest.mark.parametrize("kind", PYSALIENCY)
def test_equals_pysaliency(kind):
    """An error of convention (ddof, logarithm, normalisation, order of arguments) looks like a better model."""
    prediction, density, fixations, pool = example()
    prediction = {"float": prediction, "8 bits": levels(prediction, 255), "5 levels": levels(prediction, 4)}[kind]
    found = (
        saliency.nss(prediction, fixations, ddof=0),
        saliency.cc(prediction, density),
        saliency.sim(prediction, density, "tuebingen"),
        saliency.kld(prediction, density),
        saliency.auc_uniform(prediction, fixations),
        saliency.auc_judd(prediction, fixations),
        saliency.auc_shuffled(prediction, fixations, pool),
    )
    assert found == pytest.approx(PYSALIENCY[kind], rel=1e-12)


def test_mit_conventions_by_hand():
    """SIM of the MIT code and Tuebingen's differ by half on maps with a floor; NSS by a factor."""
    prediction, truth = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 1.0]])
    assert saliency.sim(prediction, truth) == pytest.approx(1 / 3 + 1 / 2)  # 0, 1/3, 2/3 and 0, 1/2, 1/2
    assert saliency.sim(prediction, truth, "tuebingen") == pytest.approx(1 / 3 + 1 / 2)
    assert saliency.sim(prediction + 10, truth) == pytest.approx(1 / 3 + 1 / 2)
    assert saliency.sim(prediction + 10, truth, "tuebingen") == pytest.approx((12 + 13) / 36)
    assert saliency.nss(prediction, [[0, 0, 1]]) == pytest.approx(1.0)
    assert saliency.nss(prediction, [[0, 0, 1]], ddof=0) == pytest.approx(1 / math.sqrt(2 / 3))
    assert saliency.kld([[3, 1]], [[1, 1]]) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert saliency.kld([[1, 0]], [[0, 1]]) == pytest.approx(math.log(1 / 2.2204e-16))
    gain = saliency.information_gain([[6, 1, 1]], [[1, 1, 0]], [[1, 1, 2]])  # 3/4 and 1/8 against 1/4
    assert gain == pytest.approx((math.log2(3) - 1) / 2)


@pytest.mark.parametrize("size", [(9, 16), (16, 9), (1, 40)])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.uint8, np.int16, bool])
def test_areas_are_shares_of_pairs(size, kind):
    """Flat indices that are right for squares only, thresholds that skip ties, and jitter: other numbers."""
    generator = np.random.default_rng(size[0])
    prediction = (generator.random(size) * 6).astype(kind)
    fixations, pool = generator.random(size) < 0.15, generator.integers(0, 3, size)
    positives = prediction[fixations]
    assert saliency.auc_judd(prediction, fixations) == pytest.approx(by_pairs(positives, prediction[~fixations]))
    assert saliency.auc_uniform(prediction, fixations) == pytest.approx(by_pairs(positives, prediction.ravel()))
    drawn = np.repeat(prediction.ravel(), pool.ravel())
    assert saliency.auc_shuffled(prediction, fixations, pool) == pytest.approx(by_pairs(positives, drawn))


def test_maps_turned_and_stretched_score_the_same():
    """Swapped axes show only where H != W; an AUC or NSS that depends on the unit is none."""
    prediction, density, fixations, pool = example()
    whole = SaliencyScores(baseline=density + 0.1)
    turned = SaliencyScores(baseline=(density + 0.1).T)
    found = whole.measure(prediction, density, fixations, pool)
    assert turned.measure(prediction.T, density.T, fixations.T, pool.T) == pytest.approx(found)
    scaled = whole.measure(1e-200 * prediction, density * 1e200, fixations * 255, pool)
    assert scaled == pytest.approx(found)
    shifted = whole.measure(np.exp(3 * prediction), density, fixations, pool)
    for name in ("auc_judd", "auc_uniform", "auc_shuffled"):
        assert shifted[name] == found[name]


def test_edges():
    """A convention that puts 0 for a frame without fixations lowers every mean; NaN in a map passes as a score."""
    nothing, one = np.zeros((3, 4)), np.eye(3, 4)
    generator = np.random.default_rng(0)
    prediction = generator.random((3, 4))
    scores = SaliencyScores(baseline=np.ones((3, 4)))
    without = scores.measure(prediction, nothing, nothing, nothing)
    assert all(math.isnan(value) for value in without.values())
    assert set(without) == set(METRICS)
    for constant in (nothing, nothing + 0.1, np.full((3, 4), 7, np.uint8), nothing - 3):
        found = scores.measure(constant, one, one, one)
        assert [found[name] for name in ("auc_judd", "auc_uniform", "auc_shuffled", "nss", "cc")] == [0.5] * 3 + [0, 0]
        assert (found["sim"], found["kld"], found["ig"]) == pytest.approx((3 / 12, math.log(4), 0.0))
    assert math.isnan(saliency.cc(prediction, nothing + 1))
    assert math.isnan(saliency.auc_judd(prediction, nothing + 1))
    assert math.isnan(saliency.auc_shuffled(prediction, one, nothing))
    assert saliency.kld(prediction - 0.5, one) == pytest.approx(saliency.kld(prediction - prediction.min(), one))


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([[1.0, np.nan]], [[1, 0]], "prediction holds NaN or infinity in 1 pixels"),
        ([[1.0, np.inf]], [[1, 0]], "NaN or infinity"),
        ([[1.0, 2.0]], [[1.0, np.nan]], "density of fixations holds NaN"),
        ([[1.0, 2.0]], [[1.0, -1.0]], "negative values, down to -1"),
        ([[1.0, 2.0]], [[1.0], [2.0]], r"is 2 x 1, the prediction 1 x 2 \(rows x columns\)"),
        ([1.0, 2.0], [1.0, 2.0], r"shape \[H, W\], got float64 \[2\]"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"got float64 \[0, 3\]"),
        ([["a"]], [[1]], "real numbers"),
        ([[1j]], [[1]], "real numbers"),
    ],
)
def test_what_is_no_map_is_refused(prediction, truth, message):
    """Broadcasting and NaN give numbers, too."""
    with pytest.raises(DataError, match=message):
        saliency.cc(prediction, truth)


def test_judd_takes_30_ms_at_most():
    """A loop over thresholds takes seconds per frame: a validation set would take days."""
    generator = np.random.default_rng(0)
    fixations = np.zeros(360 * 640, bool)
    fixations[generator.choice(360 * 640, 300, replace=False)] = True
    for prediction in (generator.random((360, 640)), generator.integers(0, 256, (360, 640), np.uint8)):
        times = []
        for _ in range(5):
            began = time.process_time()
            saliency.auc_judd(prediction, fixations.reshape(360, 640))
            times.append(time.process_time() - began)
        assert min(times) < 0.03


def test_resizing_as_opencv():
    """Corner-aligned or low-pass filtered resizing shifts maps by half a pixel or blurs them."""
    assert resize_map([[0, 4]], (1, 4)).tolist() == [[0, 1, 3, 4]]
    assert resize_map(np.arange(8)[None] ** 2, (1, 2)).tolist() == [[(1 + 4) / 2, (25 + 36) / 2]]
    values = np.random.default_rng(0).random((5, 9))
    for size in [(7, 4), (10, 18), (1, 1), (5, 9)]:
        expected = torch.nn.functional.interpolate(torch.tensor(values)[None, None], size=size, mode="bilinear")
        assert np.allclose(resize_map(values, size), expected[0, 0].numpy())


def test_counts_keep_every_fixation():
    """Interpolated or sampled fixation maps lose points, and with them the pool."""
    counts = np.random.default_rng(0).integers(0, 3, (7, 11))
    for size in [(3, 5), (14, 22), (20, 3), (1, 1)]:
        moved = rescale_counts(counts, size)
        assert (moved.shape, moved.sum()) == (size, counts.sum())
    assert np.array_equal(rescale_counts(counts, (7, 11)), counts)
    assert np.argwhere(rescale_counts(np.eye(2, 4)[1:], (3, 8))).tolist() == [[1, 3]]


def test_dhf1k_protocol_by_hand():
    """Blur and 8 bits change the numbers that papers print: to leave one out compares with nobody."""
    one = np.zeros((15, 17))
    one[7, 8] = 2.0
    seen = dhf1k_protocol(one, (15, 17))
    assert seen.dtype == np.uint8
    bell = np.exp(-(np.arange(-5, 6) ** 2) / 8)
    assert seen[7, 3:14].tolist() == np.floor(255 * bell + 0.5).tolist()
    assert seen[2:13, 8].tolist() == seen[7, 3:14].tolist()
    assert not seen[:2].any()
    assert dhf1k_protocol(one[:, 4:13], (30, 34)).max() == 255
    step = np.zeros((1, 12))
    step[0, 0] = 1.0  # mirrored without the edge: column 1 sees it once, column 0 too
    weights = bell / bell.sum()
    assert dhf1k_protocol(step, (1, 12))[0, 1] == np.floor(255 * weights[4] / weights[5] + 0.5)
    assert not dhf1k_protocol(np.full((4, 5), 0.3), (8, 9)).any()


def test_dhf1k_protocol_in_the_scores():
    """An option that is recorded but not applied."""
    prediction, density, fixations, _ = example()
    small = prediction[::2, ::2]
    found = SaliencyScores(protocol="dhf1k").measure(small, density, fixations)
    seen = dhf1k_protocol(small, density.shape)
    assert found["cc"] == saliency.cc(seen, density)
    assert found["nss"] == saliency.nss(seen, fixations)
    with pytest.raises(DataError, match=r"prediction is 18 x 32, the truth 36 x 64 .* set resize"):
        SaliencyScores().measure(small, density, fixations)
    resized = SaliencyScores(resize=True).measure(small, density, fixations)
    assert resized["cc"] == saliency.cc(resize_map(small, (36, 64)), density)


def frames(count, seed=0):
    """Frames of two videos, of which some have no fixation or no density."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        density, fixations = generator.random((6, 9)), generator.random((6, 9)) < 0.2
        truth = {"density": density * (index % 4 != 3), "fixations": fixations & (index % 3 != 2)}
        yield "ab"[index % 5 == 4], generator.random((6, 9)), {**truth, "pool": np.ones((6, 9))}


def test_means_over_frames_and_over_videos_by_hand():
    """The two differ where videos differ in length; a mean without its kind cannot be compared."""
    scores = SaliencyScores(["cc", "nss"])
    for video, prediction, truth in frames(15):
        scores.add(prediction=prediction, reference=truth, video=video)
    assert len(scores) == 15
    each = [(video, SaliencyScores(["cc"]).measure(p, t["density"])["cc"]) for video, p, t in frames(15)]
    known = {name: [value for video, value in each if video == name and not math.isnan(value)] for name in "ab"}
    found = scores.compute()
    assert (found["frames"], found["videos"]) == (15, 2)
    assert found["frame_mean"]["cc"] == pytest.approx(np.mean(known["a"] + known["b"]))
    assert found["video_mean"]["cc"] == pytest.approx((np.mean(known["a"]) + np.mean(known["b"])) / 2)
    assert found["left_out"] == {"nss": 5, "cc": 3}
    assert found["per_video"]["b"]["frames"] == 3
    assert found["per_video"]["b"]["mean"]["cc"] == pytest.approx(np.mean(known["b"]))
    assert sum(video["left_out"]["nss"] for video in found["per_video"].values()) == 5
    assert scores.compute() == {}


def test_processes_and_batches_change_nothing():
    """Means of means weigh the processes in place of the frames."""
    whole = SaliencyScores(baseline=np.ones((6, 9)))
    parts = [SaliencyScores(baseline=np.ones((6, 9))) for _ in range(3)]
    for index, (video, prediction, truth) in enumerate(frames(23)):
        whole.add(prediction=prediction, reference=truth, video=video)
        tensors = {name: torch.as_tensor(value) for name, value in truth.items()}
        parts[index % 3].add_batch(predictions=torch.tensor(prediction)[None], references=[tensors], videos=[video])
    for part in parts[1:]:
        parts[0].merge(json.loads(json.dumps(part.state())))
    merged, expected = parts[0].compute(), whole.compute()
    assert merged["per_video"].keys() == expected["per_video"].keys()
    for name in METRICS:
        assert merged["frame_mean"][name] == pytest.approx(expected["frame_mean"][name], rel=1e-12)
        assert merged["video_mean"][name] == pytest.approx(expected["video_mean"][name], rel=1e-12)
    assert merged["left_out"] == expected["left_out"]


def test_memory_does_not_grow_with_the_frames():
    """Kept maps of 58,000 frames fill the memory after hours."""
    scores = SaliencyScores(["cc"])
    for count, (_, prediction, truth) in zip(range(40), itertools.cycle(frames(4)), strict=False):
        scores.add(prediction=prediction, reference=truth, video="a")
        if count == 3:
            early = len(json.dumps(scores.state()))
    assert len(json.dumps(scores.state())) < early + 20


def test_a_bad_frame_leaves_the_sums_as_they_were():
    """A frame that is skipped after an error must not be half counted."""
    scores = SaliencyScores()
    video, prediction, truth = next(iter(frames(1)))
    scores.add(prediction=prediction, reference=truth, video=video)
    before = scores.state()
    for bad, reference in [
        (prediction * np.nan, truth),
        (prediction, {"density": truth["density"], "fixations": truth["fixations"][:3]}),
        (prediction, {"density": -truth["density"], "fixations": truth["fixations"]}),
        (prediction, {}),
        (prediction, {"pool": truth["pool"]}),
        (prediction, {"map": truth["density"]}),
        (prediction, truth["density"]),
    ]:
        with pytest.raises(DataError):
            scores.add(prediction=bad, reference=reference, video="c")
    assert scores.state() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["ccc"]}, "metrics must be some of auc_judd, .*, got ccc"),
        ({"metrics": []}, "got none"),
        ({"metrics": ["ig"]}, "needs a baseline"),
        ({"protocol": "mit"}, "protocol must be one of raw, dhf1k, got 'mit'"),
        ({"sim": "dhf1k"}, "sim must be one of mit, tuebingen"),
        ({"ddof": 2}, "ddof must be one of 0, 1, got 2"),
    ],
)
def test_settings_are_checked_at_once(settings, message):
    """After an hour of scoring is late."""
    with pytest.raises(ConfigError, match=message):
        SaliencyScores(**settings)
    with pytest.raises(DataError, match="merge where the settings agree"):
        SaliencyScores(sim="tuebingen").merge(SaliencyScores().state())
    with pytest.raises(DataError, match="One reference and one video per prediction"):
        SaliencyScores().add_batch(predictions=np.ones((2, 3, 3)), references=[{}])
    with pytest.raises(ConfigError, match="convention must be"):
        saliency.sim([[1, 2]], [[1, 2]], "other")


def test_is_an_evaluate_metric_and_takes_what_models_give():
    """bfloat16 tensors and tensors with gradients have no numpy form."""
    scores = SaliencyScores(["cc"])
    assert isinstance(scores, evaluate.Metric)
    prediction = torch.arange(6.0).view(2, 3)
    for values in (prediction, prediction.bfloat16(), prediction.requires_grad_(), [[0, 1, 2], [3, 4, 5]]):
        scores.add(prediction=values, reference={"density": prediction.detach()})
    assert scores.compute()["frame_mean"]["cc"] == pytest.approx(1.0)
