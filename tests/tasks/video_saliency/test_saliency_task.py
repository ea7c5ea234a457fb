"""Video saliency as a task: densities as log_probs, roles at the truth's size, blank clips, own modules."""

import numpy as np
import pytest
import torch
from saliency_files import H, W, mp4, numbers_of
from saliency_peers import FRAMES, SIDE, tiny_saliency
from saliency_run import gaze_videos, saliency_cohort
from torch import nn

from hf_mutual_kd import (
    BestRule,
    ClipPolicy,
    ClipRows,
    Cohort,
    ConfigError,
    DataError,
    FrozenSource,
    LiveSource,
    LoadedPeer,
    MeanRule,
    Objective,
    PeerError,
    PeerSpec,
    TransferOptions,
    VideoSaliency,
    VideoSaliencyProcessor,
)
from hf_mutual_kd.distillation.roles import NOBODY
from hf_mutual_kd.tasks.video_saliency.collator import ClipCollator, ClipProcessors, clip_policy
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import ClipView
from hf_mutual_kd.tasks.video_saliency.data.fixations import FixationList
from hf_mutual_kd.tasks.video_saliency.data.gaze_reference import GazeReference
from hf_mutual_kd.tasks.video_saliency.data.truth import FolderTruth, PointTruth, SaliencyVideo
from hf_mutual_kd.tasks.video_saliency.data.truth_batches import UNREADABLE, has_density, join_truths, split_truths
from hf_mutual_kd.tasks.video_saliency.metrics.scores import SaliencyScores
from hf_mutual_kd.tasks.video_saliency.model.losses import log_density, resample_log_density, saliency_loss
from hf_mutual_kd.tasks.video_saliency.outputs import log_maps
from hf_mutual_kd.tasks.video_saliency.task import clip_losses

LIVE = {"rule": BestRule(), "source": LiveSource(), "score": "loss"}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def truth(height=12, width=20, row=3, column=5):
    """One bell and one fixation."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    density = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 8.0)
    fixations = torch.zeros(height, width)
    fixations[row, column] = 1
    return torch.stack([density / density.sum(), fixations])


def batch_of(cohort, videos, every=5, **given):
    rows = ClipRows(videos, every=every)
    return ClipCollator(cohort.processors, **given)([rows[place] for place in range(len(rows))])


# Truths of a batch


def test_truths_of_different_sizes_come_back_whole():
    """A cell beyond a small truth that counts as blank would shift densities and scores."""
    parts = [truth(12, 20), truth(7, 31), truth(12, 31)]
    labels = join_truths(parts)
    assert labels.shape == (3, 2, 12, 31)
    for part, found in zip(parts, split_truths(labels), strict=True):
        assert torch.equal(part, found)
    assert has_density(join_truths([truth(), torch.zeros(2, 4, 4)])).tolist() == [True, False]


def test_clips_of_one_moment(tmp_path):
    """Every peer its own frames, size and normalisation, but the same target and the same view of it."""
    cohort = saliency_cohort()
    view = ClipView(min_area=0.5, seed=4)
    batch = batch_of(cohort, gaze_videos(2, "a"), view=view)
    shapes = {name: tuple(one["pixel_values"].shape) for name, one in batch["peer_inputs"].items()}
    assert shapes == {"convnext": (4, FRAMES, 3, SIDE, SIDE), "videomae": (4, FRAMES, 3, SIDE, SIDE + 8)}
    left, right = (one["pixel_values"][:, -1].mean((1, 2, 3)) for one in batch["peer_inputs"].values())
    torch.testing.assert_close(left, right, atol=0.05, rtol=0)
    assert batch["labels"].dtype == torch.float32
    for part in split_truths(batch["labels"]):
        assert part[0].sum() == pytest.approx(1, abs=1e-5)
    again = batch_of(cohort, gaze_videos(2, "a"), view=view)
    assert torch.equal(batch["labels"], again["labels"])


def test_peers_with_equal_processors_share_their_clips():
    """A second resize and a second copy to the device for nothing."""
    cohort = saliency_cohort()
    processors = dict.fromkeys("ab", cohort.processors["convnext"])
    inputs = ClipCollator(processors)([ClipRows(gaze_videos(1, "a"), every=4)[1]])["peer_inputs"]
    assert inputs["a"]["pixel_values"] is inputs["b"]["pixel_values"]


def test_policy_of_a_processor():
    """A callable without a policy, or one for all frames, would see other moments than its truth."""
    assert clip_policy(VideoSaliencyProcessor(num_frames=4, frame_stride=3)) == ClipPolicy(4, 3)
    assert clip_policy(VideoSaliencyProcessor(num_frames=5, target="center")) == ClipPolicy(5, 1, "center")
    assert clip_policy(VideoSaliencyProcessor(num_frames=5, target="all")) == ClipPolicy(5)
    assert clip_policy(lambda clips: {}) == ClipPolicy()
    own = Foreign().processor
    assert clip_policy(own).relative == (-3, 0)


def test_side_that_peers_need():
    """A foreign processor whose size is one number would end the run in a TypeError."""
    square, wide = lambda clips: {}, VideoSaliencyProcessor((8, 40))
    square.image_size = 32
    assert ClipProcessors({"a": square}).max_side == 64
    assert ClipProcessors({"a": square, "b": wide}).max_side == 80
    assert ClipProcessors({"a": lambda clips: {}, "b": wide}).max_side is None


def test_frames_that_cannot_be_read(tmp_path):
    """A broken video ends a run after hours, or is skipped without anybody knowing."""
    cohort, videos = saliency_cohort(), gaze_videos(2, "a")
    broken = ClipRows([videos[0], type(videos[1])("broken", {"bytes": b"none", "path": None}, 10, videos[1].truth)], 5)
    rows = [broken[place] for place in range(len(broken))]
    with pytest.raises(DataError, match=r"frame 0 of video broken .*--on_bad_row skip"):
        ClipCollator(cohort.processors)(rows)
    collator = ClipCollator(cohort.processors, on_bad_row="skip")
    assert len(collator(rows)["labels"]) == 2
    assert collator.skipped == 2
    kept = ClipCollator(cohort.processors, on_bad_row="skip", keep_places=True)(rows)
    assert (kept["labels"][2:, 0, 0, 0] == UNREADABLE).all()
    task = VideoSaliency()
    with torch.no_grad():
        answers = list(cohort(peer_inputs=kept["peer_inputs"]).outputs.values())
    facts = task.evaluation_facts(answers, kept["labels"], kept["sample_ids"])
    evaluator = task.evaluator(cohort.names, 0)
    evaluator.add(facts)
    assert evaluator.compute()["cohort"]["samples"] == 2


# Loss, scores, transfer


def test_loss_is_kld_minus_cc_per_clip():
    """A batch mean or a resized sum would make a clip's role depend on its batch mates."""
    logits, parts = drawn(2, 6, 10), [truth(), truth(9, 31, 2, 28)]
    found = clip_losses(logits, join_truths(parts), None)
    alone = [saliency_loss(logits[i : i + 1], parts[i][:1]) for i in range(2)]
    torch.testing.assert_close(found, torch.cat(alone))
    same = clip_losses(logits, join_truths([truth(), truth()]), {"nss": 0.5})
    assert same.shape == (2,)


@pytest.mark.parametrize("kind", ["convnext", "videomae"])
def test_models_keep_their_own_weights_of_the_loss(kind):
    """A weight of SIM in the configuration that training ignores."""
    model, labels = tiny_saliency(kind), join_truths([truth(), truth(row=9)])
    model.config.loss_weights = {"kld": 1.0, "cc": 1.0, "sim": 0.5, "nss": 0.0, "temporal": 0.0}
    inputs = {"pixel_values": drawn(2, FRAMES, 3, SIDE, SIDE)}
    cohort = Cohort({"a": LoadedPeer(model, None, PeerSpec(kind))}, task="video-saliency")
    output = cohort({"a": inputs}, labels=labels)
    expected = model(**inputs, labels=labels[:, 0]).loss
    torch.testing.assert_close(output.loss, expected)
    assert cohort.label_names == []


def test_scores_are_at_the_size_of_the_truth():
    """Peers that are compared on their own grids: the coarser one is asked an easier question."""
    task, labels = VideoSaliency(), join_truths([truth()])
    fine = truth()[0].clamp_min(1e-6).log()[None]
    coarse = resample_log_density(fine, (3, 5))
    scores = task.scores("loss", [fine, coarse], labels)
    assert scores.shape == (2, 1)
    assert scores[0] > scores[1]
    assert scores[0].item() == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ConfigError, match="ranked by role_score 'loss'"):
        task.scores("margin", [fine], labels)


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_transfer_is_the_kl_of_resampled_densities(peers):
    """Resampled logits are another distribution; a sum over another grid has another scale."""
    live = [drawn(2, 6 + place, 12 - place, seed=place).requires_grad_() for place in range(peers)]
    labels = join_truths([truth(), truth(row=8, column=15)])
    teacher = torch.tensor([0, peers - 1])
    pull = Objective(retain=False, **LIVE).pull(None, torch.ones(2, dtype=torch.bool))
    found = VideoSaliency().run_over(pull, live, teacher, labels)
    size = (6, 12 - peers + 1)
    logs = [resample_log_density(one, size).flatten(1) for one in live]
    for peer in range(peers):
        for clip in range(2):
            said = logs[teacher[clip]][clip]
            expected = (said.exp() * (said - logs[peer][clip])).sum()
            torch.testing.assert_close(found[peer, clip], expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    moved = [bool(one.grad[0].abs().max() > 1e-7) for one in live if one.grad is not None]
    assert not moved or moved[0] is False, "the teacher of the first clip is not pulled"


@pytest.mark.parametrize("rule", [BestRule(), MeanRule()])
def test_blank_clips_add_nothing_and_teach_nobody(rule):
    """A frame at which nobody looked that teaches, or its NaN, reaches every weight."""
    cohort = saliency_cohort()
    source = LiveSource() if rule.needs_scores else FrozenSource()
    cohort.set_objective(Objective(rule=rule, source=source, score="loss", retain=rule.needs_scores))
    cohort.train()
    inputs = batch_of(cohort, gaze_videos(2, "a"))["peer_inputs"]
    labels = join_truths([truth(), truth(row=7), torch.zeros(2, 12, 20), truth(8, 9)])
    whole = cohort(inputs, labels=labels)
    assert whole.loss.isfinite()
    if rule.needs_scores:
        assert whole.teacher[2] == NOBODY
    inputs["convnext"]["pixel_values"][2] = float("nan")
    again = cohort(inputs, labels=labels)
    torch.testing.assert_close(again.loss, whole.loss)
    again.loss.backward()
    assert all(p.grad.isfinite().all() for p in cohort.peers["videomae"].parameters() if p.grad is not None)
    blank = cohort(inputs, labels=torch.zeros(4, 2, 8, 8))
    assert blank.loss == 0


def test_two_encoders_teach_each_other():
    """A cohort in which nothing moves, or the teacher does."""
    cohort = saliency_cohort()
    cohort.set_objective(Objective(retain=True, **LIVE))
    cohort.train()
    batch = batch_of(cohort, gaze_videos(2, "a"))
    output = cohort(batch["peer_inputs"], labels=batch["labels"])
    log_probs = list(output.outputs.values())
    expected = cohort.task.scores("loss", log_probs, batch["labels"]).argmax(0)
    assert output.teacher.tolist() == expected.tolist()
    assert output.transfer.shape == (2,)
    output.loss.backward()
    assert all(any(p.grad.any() for p in peer.parameters()) for peer in cohort.peers.values())


def test_without_labels_the_mean_of_the_starts_teaches():
    """Label-free training on videos without gaze must still transfer."""
    cohort = saliency_cohort()
    cohort.set_objective(Objective(rule=MeanRule(), source=FrozenSource(), retain=False, labels=False, score="loss"))
    cohort.train()
    inputs = batch_of(cohort, gaze_videos(1, "a", blank=0))
    output = cohort(inputs["peer_inputs"], labels=inputs["labels"])
    assert (output.transfer > 0).all()


# Modules of the user's own


class Foreign(nn.Module):
    """What other saliency code looks like: a sigmoid map of its own input layout."""

    def __init__(self, kind="density", extra=True):
        super().__init__()
        self.net = nn.Conv2d(3, 1, 3, padding=1)
        self.extra = extra
        if kind:
            self.saliency_output = kind

    def forward(self, video):
        maps = self.net(video[:, :, -1]).sigmoid()
        return maps if self.extra else maps.squeeze(1)

    @property
    def processor(self):
        def process(clips):
            return {"video": torch.stack([clip.permute(3, 0, 1, 2)[:, :, ::4, ::4] / 255.0 for clip in clips])}

        process.clip_policy = ClipPolicy(offsets=(-3, 0))
        return process


@pytest.mark.parametrize("extra", [True, False])
def test_modules_of_the_users_own_are_peers(extra):
    """People who own ViNet or TMFI-Net bring them with their input layout, sizes and clips."""
    torch.manual_seed(0)
    model = tiny_saliency("convnext")
    peers = {
        "ours": LoadedPeer(model, VideoSaliencyProcessor((SIDE, SIDE), num_frames=FRAMES), PeerSpec("ours")),
        "own": LoadedPeer(foreign := Foreign(extra=extra), foreign.processor, PeerSpec("own")),
    }
    cohort = Cohort(peers, task="video-saliency").train()
    cohort.set_objective(Objective(retain=False, **LIVE))
    rows = ClipRows(gaze_videos(2, "a"), every=5)
    batch = ClipCollator(cohort.processors)([rows[2], rows[3]])
    assert batch["peer_inputs"]["own"]["video"].shape == (2, 3, 2, H // 4, W // 4)
    output = cohort(batch["peer_inputs"], labels=batch["labels"])
    with torch.no_grad():
        said = foreign(**batch["peer_inputs"]["own"]).reshape(2, H // 4, W // 4)
    expected = said / said.sum((1, 2), keepdim=True)
    torch.testing.assert_close(log_density(output.outputs["own"]).exp(), expected, atol=1e-6, rtol=1e-4)
    output.loss.backward()
    assert foreign.net.weight.grad.any()


def test_modules_must_say_what_their_maps_are():
    """A sigmoid map that is taken for a log-density is nearly flat, and trains so."""
    maps = torch.rand(2, 1, 4, 6)
    with pytest.raises(PeerError, match="must say what they are; set its attribute saliency_output"):
        log_maps("a", Foreign(kind=None), maps)
    with pytest.raises(PeerError, match="it is 'logits'"):
        log_maps("a", Foreign(kind="logits"), maps)
    with pytest.raises(PeerError, match=r"expected maps \[B, h, w\].* got a tensor \[2, 4\]"):
        log_maps("a", Foreign(), torch.rand(2, 4))
    assert torch.equal(log_maps("a", Foreign(kind="log_density"), maps), maps[:, 0])
    blank = log_maps("a", Foreign(), torch.zeros(1, 4, 6, requires_grad=True))
    assert blank.isfinite().all()


def test_peers_of_other_tasks_are_refused():
    """A classifier's logits are no maps; a regulariser that finds no frames does nothing."""
    from transformers import ConvNextConfig, ConvNextModel

    task = VideoSaliency()
    with pytest.raises(PeerError, match="predicts no saliency"):
        task.check_peer("a", ConvNextModel(ConvNextConfig(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1])), None)
    with pytest.raises(PeerError, match="needs the truth of every frame"):
        task.check_peer("a", tiny_saliency("convnext", loss_weights={"temporal": 0.1}), None)
    with pytest.raises(ConfigError, match="ranked by 'loss'"):
        task.check_transfer(TransferOptions(role_score="margin"))
    with pytest.raises(ConfigError, match="video-saliency: unknown option granularity"):
        VideoSaliency(granularity="image")


# Evaluation


def evaluated(task, cohort, videos, size, every=2):
    rows = ClipRows(videos, every=every)
    collator, evaluator = ClipCollator(cohort.processors), task.evaluator(cohort.names, 0)
    for start in range(0, len(rows), size):
        batch = collator([rows[place] for place in range(start, min(start + size, len(rows)))])
        with torch.no_grad():
            answers = list(cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values())
        evaluator.add(task.evaluation_facts(answers, batch["labels"], batch["sample_ids"]))
    return evaluator.compute()


def test_evaluation_is_that_of_the_metrics():
    """A mean over batches, or blank frames that count as 0, are other numbers than everybody's."""
    cohort, videos, task = saliency_cohort(), gaze_videos(3, "test", blank=2), VideoSaliency()
    task.set_reference(ClipRows(gaze_videos(4, "train")))
    found, *others = (evaluated(task, cohort, videos, size) for size in (4, 1, 3, 8))
    for other in (*others, evaluated(task, cohort, videos[::-1], 4)):
        for name, values in found.items():
            assert values == pytest.approx(other[name], abs=1e-5)
    assert found["cohort"]["samples"] == 15
    assert found["cohort"]["left_out"] == 5
    scores, rows = SaliencyScores(metrics=["cc", "nss", "auc_judd", "auc_shuffled"]), ClipRows(videos, every=2)
    prior = SaliencyScores(metrics=["cc"])
    for place in range(len(rows)):
        batch = ClipCollator(cohort.processors)([rows[place]])
        density, fixations = split_truths(batch["labels"])[0].numpy()
        with torch.no_grad():
            logits = cohort.peers["convnext"](**batch["peer_inputs"]["convnext"]).logits[0, 0]
        reference = {"density": density, "fixations": fixations, "pool": task.reference.pool_at(density.shape)}
        prediction = resample_log_density(logits, density.shape).exp()
        scores.add(prediction=prediction, reference=reference, video=rows[place]["video"])
        prior.add(prediction=task.reference.prior_at(density.shape), reference={"density": density})
    expected = scores.compute()
    names = {"cc": "CC", "nss": "NSS", "auc_judd": "AUC-J", "auc_shuffled": "sAUC"}
    for key, name in names.items():
        assert found["convnext"][name] == pytest.approx(expected["frame_mean"][key], abs=1e-5)
        assert found["convnext"][f"video_{name}"] == pytest.approx(expected["video_mean"][key], abs=1e-5)
    assert found["cohort"]["centre_prior_CC"] == pytest.approx(prior.compute()["frame_mean"]["cc"], abs=1e-5)


def test_consistency_is_of_neighbours_in_a_shot():
    """Across a cut everything changes: a model that does not would look unsteady."""
    cohort, task = saliency_cohort(), VideoSaliency()
    steady = gaze_videos(1, "a")[0]
    cut = type(steady)("cut", steady.source, steady.length, steady.truth, tuple(range(2, steady.length, 2)))
    found = [evaluated(task, cohort, [video], 3)["cohort"] for video in (steady, cut)]
    assert 0 < found[0]["truth_consistency"] < 1
    assert "truth_consistency" not in found[1]


def test_reference_is_where_people_look():
    """A prior of flipped axes, or a pool of other pixels, is still a map."""
    reference = GazeReference(gaze_videos(4, "train"))
    assert reference.prior.sum() == pytest.approx(1)
    pool = reference.pool_at((H, W))
    assert pool.sum() == len(reference.places)
    assert pool.sum(1).argmax() in (9, 19), "every video has the point (9, 30), half of them at half the size"
    peak = np.unravel_index(reference.prior_at((H, W)).argmax(), (H, W))
    assert abs(peak[1] - 45) <= 16


def test_reference_leaves_out_what_is_no_place_in_a_frame(tmp_path):
    """Gaze beside the screen would pile up at the borders; one damaged map would end a run that may skip it."""
    points = FixationList([[[-7, 3], [2, 99], [5, 6]], [[H - 1, W - 1], [0, 0]]])
    video = SaliencyVideo("a", None, 2, PointTruth(points, (H, W), 4.0))
    (tmp_path / "0001.png").write_bytes(b"damaged")
    files = (tmp_path / "0001.png",)
    reference = GazeReference([video, SaliencyVideo("b", None, 1, FolderTruth(files, files))])
    pool = reference.pool_at((H, W))
    assert np.argwhere(pool).tolist() == [[0, 0], [5, 6], [H - 1, W - 1]]
    assert pool.sum() == 3


def test_each_peer_sees_its_clip(tmp_path):
    """The last frame of every clip is the target: of number 7 here."""
    videos, seen = gaze_videos(1, "a"), {}

    def process(clips):
        seen["frames"] = numbers_of(clips[0])
        return {"pixel_values": torch.zeros(1, 1)}

    process.clip_policy = ClipPolicy(4)
    ClipCollator({"a": process})([ClipRows(videos, every=7)[1]])
    assert seen["frames"] == [4, 5, 6, 7]
    assert len(mp4(range(3))) > 0
