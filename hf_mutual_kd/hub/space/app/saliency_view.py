"""Video saliency on the page: where each peer says that people look in a few frames of a short video."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from answer import WHEN, Ranking, about, data_uri, figure, rule_of, signed, teaching
from PIL import Image
from saliency_model.losses import resample_log_density, saliency_loss, score
from saliency_model.modeling_video_saliency import VideoSaliencyModel
from saliency_model.processing_video_saliency import VideoSaliencyProcessor
from torch import Tensor
from videos import MOST_FILE, Film, read_film
from view import PHASES, Given, Looks, View, path_of
from weight_files import check_weight_files

SHOWN_SIDE = 480
"""Pixels of a frame on the page."""
DIMMED = 0.55
"""How much of a frame stays to be seen where nobody looks."""
INFERNO = (
    "#000004",
    "#1b0c41",
    "#4a0c6b",
    "#781c6d",
    "#a52c60",
    "#cf4446",
    "#ed6925",
    "#fb9b06",
    "#f7d13d",
    "#fcffa4",
)


@dataclass
class SeenFrame:
    """What one peer makes of a target frame, at one time.

    Args:
        logs (`Tensor` `[h, w]`): its log-density, on its own grid.
        score (`float`, *optional*): CC - KLD with the truth where that is known; the best score teaches.
        cc (`float`, *optional*): the correlation alone.
    """

    logs: Tensor
    score: float | None = None
    cc: float | None = None


class SaliencyView(View):
    """The truth is a density `[H, W]` for every target frame of a sample; a visitor names the sample.

    The models are this folder's own copy of their code, whatever code lies beside the weights on the Hub.
    """

    most_file = MOST_FILE
    no_truth = ""

    def subject_input(self) -> Any:
        # No player: gradio's reports an error for every kind of video that the browser cannot play.
        video = gr.File(file_types=["video", ".avi", ".mkv"], label="Short video", height=140, elem_id="upload")
        video.preprocess = path_of  # type: ignore[method-assign]
        return video

    def truth_input(self) -> Any:
        return gr.Textbox("", visible=False)

    def sample_value(self, sample: dict[str, Any]) -> str:
        return str(self.folder / sample["video"])

    def read(self, path: str | None, truth: str | None) -> Given:
        offsets = sorted({offset for peer in self.facts["peers"] for offset in peer["clip"]})
        sample = next((one for one in self.facts["samples"] if one["name"] == truth), None)
        if sample is None:
            return Given(read_film(path, offsets))
        targets = [target["frame"] for target in sample["targets"]]
        film = read_film(str(self.folder / sample["video"]), offsets, targets, sample["cuts"])
        return Given(film, [self._density(target["map"]) for target in sample["targets"]])

    def _density(self, path: str) -> Tensor:
        with Image.open(self.folder / path) as image:
            return torch.from_numpy(np.asarray(image).astype(np.float32))

    def load(self, source: str, revision: str | None) -> Any:
        check_weight_files(
            source, revision, VideoSaliencyModel.config_class.from_pretrained(source, revision=revision)
        )
        return VideoSaliencyModel.from_pretrained(source, revision=revision, dtype=torch.float32, use_safetensors=True)

    def load_processor(self, source: str, revision: str | None) -> Any:
        return VideoSaliencyProcessor.from_pretrained(source, revision=revision)

    @torch.inference_mode()
    def see(self, model: Any, processor: Any, peer: dict[str, Any], given: Given) -> list[SeenFrame]:
        film: Film = given.subject
        found = []
        for place, target in enumerate(film.targets):
            inputs = processor(film.clip(target, peer["clip"]), return_tensors="pt")
            # Of answers for all frames of a clip, the last is the target's.
            seen = SeenFrame(model(**inputs).logits[0, -1].float())
            if given.truth is not None:
                truth = given.truth[place]
                value = float(score(seen.logs[None], truth[None]))
                seen.score = value if isfinite(value) else None
                seen.cc = correlation(resample_log_density(seen.logs, truth.shape), truth)
            found.append(seen)
        return found

    def answer(self, given: Given, seen: Looks) -> list[str]:
        film: Film = given.subject
        parts = ["<p class=soft>The lighter, the likelier that people look there, relative to each map's peak.</p>"]
        if film.goes_on:
            parts.append(f"<p class=soft>The video goes on; the peers saw its first {film.count} frames.</p>")
        if given.truth is not None:
            content = base64.b64encode(Path(film.path).read_bytes()).decode()
            parts.append(f'<video controls muted playsinline src="data:video/mp4;base64,{content}"></video>')
        for place in range(len(film.targets)):
            looks = {
                name: {phase: one if isinstance(one, str) else one[place] for phase, one in phases.items()}
                for name, phases in seen.items()
            }
            parts.append(self.moment(film, place, None if given.truth is None else given.truth[place], looks))
        peers = "".join(about(peer) for peer in self.facts["peers"])
        return [*parts, f"<section><h2>The peers</h2>{peers}{rule_of(self.facts)}</section>"]

    def moment(self, film: Film, place: int, truth: Tensor | None, looks: Looks) -> str:
        """One target frame: the frame, the truth, who would teach, and each peer's maps."""
        target = film.targets[place]
        frame = small(film.frames[target])
        shown = figure("the frame", data_uri(Image.fromarray(frame), "JPEG"))
        shown += "" if truth is None else figure("the truth", painted(frame, truth.numpy()))
        maps = "".join(
            shown_map(f"{name} {when}", frame, phases[phase])
            for name, phases in looks.items()
            for phase, when in WHEN.items()
        )
        at = f", {target / film.fps:.1f} s" if film.fps else ""
        return (
            f"<section class=moment><h2>Frame {target + 1} of {film.count}{at}</h2><div class=beside>{shown}</div>"
            f"{teaching(self.ranking(looks, truth is not None))}<div class=beside>{maps}</div></section>"
        )

    def ranking(self, looks: Looks, knows: bool) -> Ranking:
        """By the truth, or by agreement, which names no teacher."""
        names = list(looks)
        if knows:
            scores = {phase: [getattr(looks[name][phase], "score", None) for name in names] for phase in PHASES}
            return Ranking(names, scores, self.facts["score"], signed)
        return Ranking(
            names,
            {phase: agreement([looks[name][phase] for name in names]) for phase in PHASES},
            "agreement: mean correlation (CC) of its map with those of the other peers",
            signed,
            "Without the truth nobody can say who should teach: agreeing is not being right.",
        )


def correlation(logs: Tensor, density: Tensor) -> float:
    """CC of a log-density with a density, both `[h, w]`."""
    return -float(saliency_loss(logs[None], density[None], {"kld": 0.0}))


def agreement(seen: Sequence[SeenFrame | str]) -> list[float | None]:
    """Mean CC of every map with the others, on the coarsest of their grids; `None` where there is none."""
    size = min((one.logs.shape for one in seen if isinstance(one, SeenFrame)), key=np.prod, default=(1, 1))
    maps = [resample_log_density(one.logs, size) if isinstance(one, SeenFrame) else None for one in seen]
    found: list[float | None] = []
    for place, own in enumerate(maps):
        others = [one for index, one in enumerate(maps) if index != place and one is not None]
        values = [] if own is None else [correlation(own, other.exp()) for other in others]
        found.append(sum(values) / len(values) if values else None)
    return found


def shown_map(name: str, frame: np.ndarray, seen: SeenFrame | str) -> str:
    """A peer's map of a frame, or why there is none."""
    if isinstance(seen, str):
        return f"<p class=soft>{name}: {html.escape(seen)}</p>"
    density = (seen.logs - seen.logs.amax()).exp().numpy()
    return figure(f"{name}{'' if seen.cc is None else f': CC {seen.cc:.2f}'}", painted(frame, density))


def small(frame: np.ndarray) -> np.ndarray:
    """A frame as it is shown."""
    image = Image.fromarray(frame)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(image)


def painted(frame: np.ndarray, density: np.ndarray) -> str:
    """A density `[h, w]` as colours over its grey, dimmed frame, as the address of a JPEG."""
    height, width = frame.shape[:2]
    relative = (density / max(float(density.max()), np.finfo(np.float32).tiny)).astype(np.float32)
    strength = np.asarray(Image.fromarray(relative).resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in INFERNO], np.float32)
    steps = np.linspace(0, 1, len(anchors))
    colors = np.stack([np.interp(strength, steps, anchors[:, channel]) for channel in range(3)], -1)
    cover = np.sqrt(strength)[..., None]
    gray = frame.mean(-1, keepdims=True) * DIMMED
    return data_uri(Image.fromarray(np.rint(gray * (1 - cover) + colors * cover).astype(np.uint8)), "JPEG")


VIEW = SaliencyView
