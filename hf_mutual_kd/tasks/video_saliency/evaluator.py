"""Streams the evaluation of saliency peers: numbers per frame and per video, never maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ...reports.samples import SAMPLE, UNIT, SampleRecorder
from ..base import Evaluator
from ..counting import SampleCounts
from .data.clip_rows import unit_parts

MEASURED = {"cc": "CC", "sim": "SIM", "nss": "NSS", "auc_judd": "AUC-J", "auc_shuffled": "sAUC", "kld": "KLD"}
"""Names in [`scores`] and in results."""

CONSISTENCY_GRID = (9, 16)
"""Cells on which densities of consecutive frames are compared: few enough to be handed from process to process."""


class SaliencyEvaluator(Evaluator):
    """Per peer CC, SIM, NSS, AUC-J, sAUC, KLD, loss, expected share, consistency; the same of their references.

    Metrics are means over the measured frames of the split; a `video_` before the name: means over videos of each
    video's mean. A frame at which nobody looked is left out of them and counted (`left_out`). `loss` is the mean of
    KLD - CC at the size of the truth, which ranks the peers; `expected_share` the share of frames on which a peer has
    the best score; `consistency` the mean CC of consecutive measured frames of a shot, on a coarse grid. For the
    cohort `ensemble_` (the peers' mean density) and `centre_prior_` (the mean density in training) before the metrics,
    and `truth_consistency`. Memory grows with the videos, not with their frames.
    """

    metrics = tuple(MEASURED.values())

    def __init__(self, peer_names: Sequence[str]):
        self.peer_names = list(peer_names)
        peers = len(self.peer_names)
        self.counts = SampleCounts(peers)
        self.left_out = 0
        self.videos: dict[int, Tensor] = {}
        """Of every video the sums and the counts of `MEASURED`, `[2, N + 2, M]`."""
        self.single = SampleRecorder()
        self._steady = torch.zeros(2, peers + 1, dtype=torch.float64)
        self._last: tuple[list[int], Tensor] | None = None

    def add(self, facts: dict[str, Tensor]) -> None:
        batch = {key: value[facts["readable"]].cpu() for key, value in facts.items()}
        labelled = batch["labelled"]
        self.counts.add(batch)
        self.left_out += int((~(labelled & batch["fixated"])).sum())
        measured = batch["measured"].double()
        self._record({key: value[labelled].numpy() for key, value in batch.items()})
        known = ~measured.isnan()
        both = torch.stack([measured.masked_fill(~known, 0.0), known.double()], dim=1)
        units: list[list[int]] = unit_parts(batch["sample_ids"]).tolist()
        for unit, numbers, density, counts in zip(units, both, batch["coarse"].double(), labelled, strict=True):
            self.videos[unit[0]] = self.videos.get(unit[0], torch.zeros_like(numbers)) + numbers
            self._follow(unit, density if counts else None)

    def _record(self, frames: dict[str, np.ndarray]) -> None:
        """Keep the numbers of single frames; their score is what ranks the peers, CC - KLD."""
        cc = frames["measured"][:, : len(self.peer_names), list(MEASURED).index("cc")]
        videos = unit_parts(torch.from_numpy(frames["sample_ids"]))[:, 0].numpy()
        self.single.add(id=frames["sample_ids"], score=-frames["loss"], cc=cc, teacher=frames["teacher"], group=videos)

    def sample_scores(self) -> np.ndarray:
        """Of every video the mean over its measured frames, `[V, N]`: frames of one are no samples of their own."""
        found = self.single.joined()
        videos, place = np.unique(found[f"{SAMPLE}group"], return_inverse=True)
        sums = np.zeros((len(videos), len(self.peer_names)))
        np.add.at(sums, place, found[f"{SAMPLE}score"])
        return sums / np.bincount(place)[:, None]

    def records(self) -> dict[str, np.ndarray]:
        """Videos `[V]`, their measured frames, and the means `[V, N, M]` of `MEASURED` over these; for every frame the
        score and CC of each peer, who would teach, and its video."""
        single = self.single.joined()
        if not single:
            return {}
        sums, counts = torch.stack([self.videos[video] for video in sorted(self.videos)]).unbind(1)
        return single | {
            "videos": np.array(sorted(self.videos)),
            "video_frames": counts[:, 0].amax(1).long().numpy(),
            "video_means": (sums / counts)[:, : len(self.peer_names)].numpy(),
            f"{UNIT}id": np.array(sorted(self.videos)),
            f"{UNIT}sums": torch.cat([sums, counts], dim=2)[:, :-1].numpy(),
        }

    def _follow(self, unit: list[int], density: Tensor | None) -> None:
        """Compare a frame with the one that was measured before it, where both are of one shot."""
        last, self._last = self._last, None if density is None else (unit, density)
        if last is None or density is None or last[0][:2] != unit[:2] or last[0][2] >= unit[2]:
            return
        pair = [maps - maps.mean(1, keepdim=True) for maps in (last[1], density)]
        scale = (pair[0].square().sum(1) * pair[1].square().sum(1)).sqrt()
        self._steady[0] += (pair[0] * pair[1]).sum(1) / scale.clamp_min(1e-30)
        self._steady[1] += 1

    def compute(self) -> dict[str, dict[str, float]]:
        if not self.counts.samples:
            raise DataError("an evaluation split has no rows that can be read")
        results: dict[str, dict[str, float]] = {name: {} for name in self.peer_names}
        results["cohort"] = {"samples": self.counts.samples, "left_out": self.left_out}
        if not self.counts.labelled:
            return results
        *peers, ensemble, prior = self._means()
        steady = (self._steady[0] / self._steady[1]).tolist()
        for index, (name, values) in enumerate(zip(self.peer_names, peers, strict=True)):
            results[name] = values | self.counts.of(index)
            if not math.isnan(steady[index]):
                results[name]["consistency"] = steady[index]
        results["cohort"] |= {"videos": len(self.videos)}
        if not math.isnan(steady[-1]):
            results["cohort"]["truth_consistency"] = steady[-1]
        for kind, values in (("ensemble", ensemble), ("centre_prior", prior)):
            results["cohort"] |= {f"{kind}_{name}": values[name] for name in MEASURED.values() if name in values}
        return results

    def _means(self) -> list[dict[str, float]]:
        """The metrics of every peer, the ensemble and the prior, over frames and videos, where they have a value."""
        sums, counts = torch.stack(list(self.videos.values())).unbind(1)
        by_frame = sums.sum(0) / counts.sum(0)
        by_video = (sums / counts).nanmean(0)
        return [
            {
                prefix + name: value
                for prefix, means in (("", frames), ("video_", videos))
                for name, value in zip(MEASURED.values(), means, strict=True)
                if not math.isnan(value)
            }
            for frames, videos in zip(by_frame.tolist(), by_video.tolist(), strict=True)
        ]

    def by_class(self) -> dict[str, list[float | None]]:
        return {}
