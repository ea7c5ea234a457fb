"""Saliency metrics over the frames of many videos: sums per video, so memory does not grow with the frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import datasets
import evaluate
import numpy as np

from ....errors import ConfigError, DataError
from ...streaming_metric import StreamingMetric
from . import functions as saliency
from .maps import checked_map, dhf1k_protocol, resize_map

METRICS = {
    "auc_judd": "fixations",
    "auc_uniform": "fixations",
    "auc_shuffled": "fixations",
    "nss": "fixations",
    "cc": "density",
    "sim": "density",
    "kld": "density",
    "ig": "fixations",
}
"""Name in results, and which truth the metric needs."""

Protocol = Literal["raw", "dhf1k"]


class SaliencyScores(StreamingMetric):
    """
    The saliency metrics of [`functions`], as means over frames and over videos.

    A frame for which a metric says NaN (no fixation, a blank truth, no pool, no truth of that kind) is left out of
    that metric's means alone, and counted. The frame mean weighs long videos more (ViNet's numbers are such means);
    the video mean is the mean over videos of each video's frame mean. State it with the numbers.

    Args:
        metrics (`Sequence[str]`, *optional*): some of `METRICS`; all when unset, of which `ig` needs a `baseline`.
        protocol (`"raw"` or `"dhf1k"`, *optional*, defaults to `"raw"`):
            `"dhf1k"` passes every prediction through [`dhf1k_protocol`].
        resize (`bool`, *optional*, defaults to `False`):
            Bring a prediction of another size to the truth's, bilinear; `"dhf1k"` does so always.
        sim (`"mit"` or `"tuebingen"`, *optional*, defaults to `"mit"`): see [`sim`].
        ddof (0 or 1, *optional*, defaults to 1): of the standard deviation of NSS; 1 is MIT's, 0 Tuebingen's.
        baseline (`[h, w]`, *optional*):
            Density for `ig`, such as the mean of the training maps; resized to each truth. Without it, `ig` is left
            out, and naming it is an error.

    Raises:
        [`ConfigError`]: an unknown metric or setting, or `ig` without a baseline.

    Example:

    ```python
    >>> scores = SaliencyScores(metrics=["cc", "nss"], ddof=0)
    >>> truth = {"density": [[0, 1, 0, 1]], "fixations": [[0, 1, 0, 0]]}
    >>> scores.add(prediction=[[1, 3, 1, 3]], reference=truth, video="0601")
    >>> scores.add(prediction=[[1, 3, 1, 3]], reference={"density": [[1, 0, 1, 0]]}, video="0601")
    >>> result = scores.compute()
    >>> result["frame_mean"], result["left_out"]
    ({'nss': 1.0, 'cc': 0.0}, {'nss': 1, 'cc': 0})
    ```
    """

    sums = ("count",)
    description = "Video saliency: AUC-Judd, AUC, shuffled AUC, NSS, CC, SIM, KLD and IG, per frame and per video."
    _totals: dict[str, Any]

    def __init__(
        self,
        metrics: Sequence[str] | None = None,
        protocol: Protocol = "raw",
        resize: bool = False,
        *,
        sim: Literal["mit", "tuebingen"] = "mit",
        ddof: Literal[0, 1] = 1,
        baseline: Any = None,
        **kwargs: Any,
    ) -> None:
        for name, value, choices in (
            ("protocol", protocol, ("raw", "dhf1k")),
            ("sim", sim, ("mit", "tuebingen")),
            ("ddof", ddof, (0, 1)),
        ):
            if value not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        self.metrics = _chosen(metrics, baseline is not None)
        self.protocol, self.resize, self.sim, self.ddof = protocol, resize, sim, ddof
        self.baseline = None if baseline is None else checked_map(baseline, "baseline")
        super().__init__(**kwargs)
        self._totals = {}

    def _info(self) -> evaluate.MetricInfo:
        grid = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        features = datasets.Features({"predictions": grid, "references": {"density": grid, "fixations": grid}})
        return evaluate.MetricInfo(description=self.description, citation="", inputs_description="", features=features)

    def __len__(self) -> int:
        """Frames that were added since the last `compute`."""
        return sum(video["frames"] for video in self._totals.values())

    def add(self, *, prediction: Any = None, reference: Any = None, video: str = "", **kwargs: Any) -> None:
        """
        Count one frame.

        Args:
            prediction (array or tensor `[h, w]`): higher is more salient.
            reference (`Mapping`): the truth at its own size, `density` `[H, W]`, `fixations` `[H, W]` (above 0 is
                fixated), and `pool` `[H, W]`, how often each pixel was fixated on other stimuli; each may be missing.
            video (`str`, *optional*, defaults to `""`): whose frame it is.
            **kwargs: refused; the base class allows further inputs.

        Raises:
            [`DataError`]: a frame that cannot be scored; it leaves the sums as they were.
        """
        if kwargs:
            raise DataError(f"SaliencyScores takes prediction, reference and video, got also {', '.join(kwargs)}.")
        if not isinstance(reference, Mapping) or not set(reference) <= {"density", "fixations", "pool"}:
            raise DataError("The reference of a frame is a mapping of density, fixations and pool (each optional).")
        found = self.measure(prediction, **reference)
        totals = self._totals.setdefault(video, self._nothing())
        totals["frames"] += 1
        for name, value in found.items():
            if not math.isnan(value):
                totals["sums"][name] += value
                totals["counts"][name] += 1

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """
        Count frames; see [`SaliencyScores.add`].

        Args:
            predictions (tensor or array `[B, h, w]`, or a list of B maps): higher is more salient.
            references (list of B `Mapping`): the truth of each frame.
            **kwargs: `videos`, a list of B names, all `""` when unset; anything else is refused.

        Raises:
            [`DataError`]: lists of different length, or a frame that cannot be scored.
        """
        if predictions is None or references is None:
            raise DataError("SaliencyScores compares predictions with references and got only one of them.")
        videos = kwargs.pop("videos", None)
        videos = [""] * len(predictions) if videos is None else videos
        if not len(predictions) == len(references) == len(videos):
            raise DataError(
                f"One reference and one video per prediction are expected, got {len(references)} and {len(videos)} "
                f"for {len(predictions)}."
            )
        for prediction, reference, video in zip(predictions, references, videos, strict=True):
            self.add(prediction=prediction, reference=reference, video=video, **kwargs)

    def measure(
        self, prediction: Any, density: Any = None, fixations: Any = None, pool: Any = None
    ) -> dict[str, float]:
        """The metrics of one frame, added to nothing; NaN where one has no value. Arguments as [`SaliencyScores.add`].

        Raises:
            [`DataError`]: no finite map, no truth at all, or sizes that differ.
        """
        if density is None and fixations is None:
            raise DataError("A frame needs a density or fixations as its truth, got neither.")
        density, fixations, pool = _array(density), _array(fixations), _array(pool)
        sizes = sorted({np.shape(truth) for truth in (density, fixations, pool) if truth is not None})
        if len(sizes) > 1 or len(sizes[0]) != 2:
            raise DataError(f"The truth of a frame must be maps [H, W] of one size, got {', '.join(map(str, sizes))}.")
        values = self._prepared(prediction, sizes[0])
        measures = {
            "auc_judd": lambda: saliency.auc_judd(values, fixations),
            "auc_uniform": lambda: saliency.auc_uniform(values, fixations),
            "auc_shuffled": lambda: math.nan if pool is None else saliency.auc_shuffled(values, fixations, pool),
            "nss": lambda: saliency.nss(values, fixations, self.ddof),
            "cc": lambda: saliency.cc(values, density),
            "sim": lambda: saliency.sim(values, density, self.sim),
            "kld": lambda: saliency.kld(values, density),
            "ig": lambda: saliency.information_gain(values, fixations, resize_map(self.baseline, values.shape)),
        }
        missing = {"density": density is None, "fixations": fixations is None}
        return {name: math.nan if missing[METRICS[name]] else measures[name]() for name in self.metrics}

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """
        The result over all frames that were added (and over the batch given here), then start anew.

        Returns:
            `dict`: `frames` and `videos` (how many); `frame_mean`, `video_mean` and `left_out` (frames without a
            value) by metric; `per_video`, for each video its `frames`, `mean` and `left_out`. A mean of nothing is
            NaN, and where no frame was counted the whole is empty.
        """
        if predictions is not None or references is not None or kwargs:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        totals, self._totals = self._totals, {}
        return self._result(totals) if totals else {}

    def state(self) -> dict[str, Any]:
        """Settings and sums so far, as plain JSON-able values; [`SaliencyScores.merge`] brings processes together."""
        return {"settings": self.settings(), "videos": _copied(self._totals)}

    def merge(self, state: Mapping[str, Any]) -> None:
        """
        Add another instance's state; frames of one video may come from several processes.

        Raises:
            [`DataError`]: the state of another metric, or of one with other settings.
        """
        if set(state) != {"settings", "videos"} or state["settings"] != self.settings():
            raise DataError(
                f"States of saliency scores merge where the settings agree: here {self.settings()}, "
                f"got {state.get('settings', 'the state of another metric')}."
            )
        for video, other in state["videos"].items():
            totals = self._totals.setdefault(video, self._nothing())
            totals["frames"] += other["frames"]
            for part in ("sums", "counts"):
                for name in self.metrics:
                    totals[part][name] += other[part][name]

    def settings(self) -> dict[str, Any]:
        """What a number depends on, to be stated with it."""
        return {
            "protocol": self.protocol,
            "resize": self.resize or self.protocol == "dhf1k",
            "sim": self.sim,
            "nss_ddof": self.ddof,
            "metrics": list(self.metrics),
        }

    def _prepared(self, prediction: Any, size: tuple[int, int]) -> np.ndarray:
        values = checked_map(_array(prediction), "prediction")
        if self.protocol == "dhf1k":
            return dhf1k_protocol(values, size)
        if values.shape == size:
            return values
        if not self.resize:
            raise DataError(
                f"The prediction is {values.shape[0]} x {values.shape[1]}, the truth {size[0]} x {size[1]} "
                "(rows x columns): set resize to bring predictions to the truth's size."
            )
        return resize_map(values, size)

    def _nothing(self) -> dict[str, Any]:
        return {"frames": 0, "sums": dict.fromkeys(self.metrics, 0.0), "counts": dict.fromkeys(self.metrics, 0)}

    def _result(self, totals: dict[str, Any]) -> dict[str, Any]:
        frames = sum(video["frames"] for video in totals.values())
        per_video = {name: self._of_video(video) for name, video in totals.items()}
        counts = {name: sum(video["counts"][name] for video in totals.values()) for name in self.metrics}
        sums = {name: math.fsum(video["sums"][name] for video in totals.values()) for name in self.metrics}
        means = {name: [video["mean"][name] for video in per_video.values()] for name in self.metrics}
        return {
            "frames": frames,
            "videos": len(totals),
            "frame_mean": {name: _mean(sums[name], counts[name]) for name in self.metrics},
            "video_mean": {name: _mean_of(values) for name, values in means.items()},
            "left_out": {name: frames - counts[name] for name in self.metrics},
            "per_video": per_video,
        }

    def _of_video(self, video: dict[str, Any]) -> dict[str, Any]:
        return {
            "frames": video["frames"],
            "mean": {name: _mean(video["sums"][name], video["counts"][name]) for name in self.metrics},
            "left_out": {name: video["frames"] - video["counts"][name] for name in self.metrics},
        }


def _chosen(metrics: Sequence[str] | None, has_baseline: bool) -> tuple[str, ...]:
    if metrics is None:
        return tuple(name for name in METRICS if name != "ig" or has_baseline)
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics:
        raise ConfigError(f"metrics must be some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    if "ig" in metrics and not has_baseline:
        raise ConfigError("The information gain (ig) needs a baseline, such as the mean of the training maps.")
    return tuple(name for name in METRICS if name in metrics)


def _array(values: Any) -> Any:
    """Tensors come to the CPU; numpy cannot hold bfloat16."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype.is_floating_point and values.itemsize < 4 else values).numpy()


def _copied(totals: dict[str, Any]) -> dict[str, Any]:
    return {
        video: {"frames": part["frames"], "sums": dict(part["sums"]), "counts": dict(part["counts"])}
        for video, part in totals.items()
    }


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


def _mean_of(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return _mean(math.fsum(known), len(known))
