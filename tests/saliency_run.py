"""Trains two saliency peers of different encoders, also as one of several processes: `saliency_run.py OUT BATCH`."""

import functools
import sys

import torch
from saliency_files import H, W, mp4
from saliency_peers import FRAMES, SIDE, tiny_saliency
from task_run import SETTINGS, config_of, run_still

from hf_mutual_kd import (
    ClipRows,
    Cohort,
    LoadedPeer,
    MutualKDTrainer,
    PeerSpec,
    VideoSaliencyProcessor,
)
from hf_mutual_kd.tasks.video_saliency.data.fixations import FixationList
from hf_mutual_kd.tasks.video_saliency.data.truth import PointTruth, SaliencyVideo

PEERS = ("convnext", "videomae")
LENGTH = 10


@functools.cache
def moving() -> bytes:
    """The file of every such video: an encoder need not give the same bytes twice, of which fingerprints are made."""
    return mp4(range(LENGTH))


def gaze_videos(count: int, split: str, blank: int = -1) -> list[SaliencyVideo]:
    """Videos whose gaze moves along; at no frame of number `blank` does anybody look."""
    content = {"bytes": moving(), "path": None}
    videos = []
    for number in range(count):
        size = (H, W) if number % 2 else (H // 2, W // 2)
        places = [[[(3 * frame + 7 * number) % size[0], 10 + 2 * frame], [9, 30]] for frame in range(LENGTH)]
        gaze = FixationList([[] for _ in places] if number == blank else places)
        cuts = (6,) if number == 1 else ()
        videos.append(SaliencyVideo(f"{split}{number}", content, LENGTH, PointTruth(gaze, size, 4.0), cuts))
    return videos


def saliency_cohort(names=PEERS) -> Cohort:
    peers = {}
    for name in names:
        place = PEERS.index(name)
        processor = VideoSaliencyProcessor((SIDE, SIDE + 8 * place), num_frames=FRAMES, frame_stride=1 + place)
        peers[name] = LoadedPeer(tiny_saliency(name), processor, PeerSpec(name))
    return Cohort(peers, task="video-saliency")


def saliency_trainer(out: str, **changes) -> MutualKDTrainer:
    cohort = saliency_cohort()
    args = config_of(cohort, out, **SETTINGS | changes)
    train, validation = ClipRows(gaze_videos(8, "train", blank=3)), ClipRows(gaze_videos(2, "validation"), every=4)
    return MutualKDTrainer(cohort, args, train_dataset=train, eval_dataset=validation)


def main(out: str, batch: str) -> None:
    torch.set_num_threads(1)
    trainer = saliency_trainer(out, per_device_train_batch_size=int(batch), learning_rate=0.0)
    run_still(trainer, out, ClipRows(gaze_videos(3, "test", blank=2), every=3))


if __name__ == "__main__":
    main(*sys.argv[1:])
