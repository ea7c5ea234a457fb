"""Semantic segmentation on the page: an image, the truth's map and those of the peers in one palette."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch
from answer import about, beside, data_uri, figure, rule_of, teaching
from image_view import ImageView, Seen, percent
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from uploads import read_image
from view import Given, Looks

IGNORE = 255
PALETTE = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#4b0000",
    "#000096",
    "#962d00",
    "#693c69",
    "#a53cff",
    "#001ed2",
    "#2d0f4b",
    "#b4c396",
    "#875a69",
    "#4b2d3c",
    "#691e00",
    "#b4ffa5",
    "#69d2ff",
)
OTHER, NONE = "#9a9a9a", "#dedede"


@dataclass
class Mapped(Seen):
    """With the map `[H, W]` int64 of the best classes."""

    classes: torch.Tensor | None = None


class SegmentationView(ImageView):
    """The truth is a mask `[H, W]` of class ids, 255 where a pixel does not count; a visitor names its sample."""

    auto_models = (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)
    no_truth = ""

    def truth_input(self) -> Any:
        return gr.Textbox("", visible=False)

    def read(self, path: str | None, truth: str | None) -> Given:
        image = read_image(path)
        return Given(image, self._mask(truth, image.size))

    def _mask(self, name: str | None, size: tuple[int, int]) -> torch.Tensor | None:
        for sample in self.facts["samples"]:
            if sample["name"] == name and sample.get("mask"):
                with Image.open(self.folder / sample["mask"]) as mask:
                    pixels = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
                return torch.from_numpy(pixels.astype(np.int64))
        return None

    @torch.inference_mode()
    def see(self, model: Any, processor: Any, peer: dict[str, Any], given: Given) -> Mapped:
        image, truth = given.subject, given.truth
        made = processor(images=[image], return_tensors="pt")
        inputs = {key: made[key] for key in ("pixel_values", "pixel_mask") if key in made}
        log_probs = dense_log_probs(model(**inputs), inputs, peer["columns"], (image.height, image.width))
        best = log_probs.max(0)
        seen = Mapped(float(best.values.exp().mean()), classes=best.indices)
        if truth is not None and bool((truth != IGNORE).any()):
            counts = truth != IGNORE
            own = log_probs.gather(0, truth.where(counts, 0)[None])[0]
            seen.score, seen.right = float(own[counts].mean()), float((best.indices == truth)[counts].float().mean())
        return seen

    def answer(self, given: Given, seen: Looks) -> list[str]:
        colors = colors_of(given.truth, seen)
        who = teaching(self.ranking(seen, given.truth is not None))
        parts = [f"<section><h2>Who would teach whom</h2>{who}{rule_of(self.facts)}</section>"]
        if colors:
            shown = [figure("the image", data_uri(given.subject))]
            shown += [figure("the truth", painted(given.truth, colors))] if given.truth is not None else []
            legend = "".join(
                f'<li><i style="background:{color}"></i>{html.escape(self.facts["labels"][index])}</li>'
                for index, color in colors.items()
            )
            parts.append(
                f'<section><div class="maps">{"".join(shown)}</div><ul class="legend">{legend}</ul></section>'
            )
        for peer in self.facts["peers"]:
            name = peer["name"]
            halves = beside(seen[name], lambda one, when, name=name: map_of(one, f"{name} {when}", colors))  # type: ignore[misc]
            parts.append(f"<section class=peer>{about(peer)}{halves}</section>")
        return parts


def dense_log_probs(
    outputs: Any, inputs: dict[str, torch.Tensor], columns: list[int] | None, size: tuple[int, int]
) -> torch.Tensor:
    """Log-probabilities `[C, H, W]` of either kind of head: logits per pixel, or queries with classes and masks."""
    queries = getattr(outputs, "masks_queries_logits", None)
    maps = (outputs.logits if queries is None else queries).float()
    if "pixel_mask" in inputs and not bool(inputs["pixel_mask"].all()):
        inside = inputs["pixel_mask"][0].bool()
        height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
        padded = (inside.shape[0], inside.shape[1])
        maps = F.interpolate(maps, padded, mode="bilinear", align_corners=False)[..., :height, :width]
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if queries is None:
        logits = maps[0] if columns is None else maps[0, columns]
        return logits.log_softmax(0)
    classes = outputs.class_queries_logits.float().softmax(-1)[0, :, :-1]
    classes = classes if columns is None else classes[:, columns]
    return torch.einsum("qc,qhw->chw", classes, maps[0].sigmoid()).clamp_min(1e-6).log().log_softmax(0)


def map_of(seen: Mapped, name: str, colors: dict[int, str]) -> str:
    """A peer's map with its share of right pixels."""
    share = "" if seen.right is None else f": {percent(seen.right)} of the pixels right"
    return figure(f"{name}{share}", painted(seen.classes, colors))


def colors_of(truth: torch.Tensor | None, seen: Looks) -> dict[int, str]:
    """A colour for every class that occurs, the frequent ones first where there are more classes than colours."""
    maps = [one.classes for phases in seen.values() for one in phases.values() if isinstance(one, Mapped)]
    planes = [plane.flatten() for plane in [*maps, truth] if plane is not None]
    counts = torch.bincount(torch.cat(planes)) if planes else torch.zeros(0)
    counts[IGNORE:] = 0
    found = counts.nonzero().flatten().tolist()
    if len(counts) and max(found, default=0) < len(PALETTE):
        return {index: PALETTE[index] for index in found}
    ranked = sorted(found, key=lambda index: -int(counts[index]))
    return {index: PALETTE[place] if place < len(PALETTE) else OTHER for place, index in enumerate(ranked)}


def painted(classes: Any, colors: dict[int, str]) -> str:
    """A map of class ids as the address of a PNG."""
    height, width = classes.shape
    shown = Image.frombytes("L", (width, height), classes.to(torch.uint8).contiguous().numpy().tobytes())
    palette = [channel for index in range(256) for channel in bytes.fromhex(colors.get(index, NONE)[1:])]
    shown.putpalette(palette)
    return data_uri(shown)


VIEW = SegmentationView
