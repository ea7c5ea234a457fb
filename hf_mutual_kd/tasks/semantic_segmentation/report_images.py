"""The images of a segmentation run that changed most, with every peer's maps before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ...reports.blocks import Filter, Picture, Section, Text
from ...reports.pictures import NO_CLASS, SampleImages, encoded, read_map
from ...reports.report_data import ReportData
from ...reports.scenes import Score, decoded, scenes_of
from .figures import NONE, Example, class_colors, legend_entries, peer_colors

CHANGES = (
    ("right before and after", "#f4f4f4"),
    ("learned", "#5fd38d"),
    ("lost", "#b3123f"),
    ("wrong before and after", "#7b8494"),
)
"""What can become of a pixel, and its colour, which is no class's."""


def images_section(data: ReportData) -> Section | None:
    """The images whose share of right pixels changed most, with every peer's map."""
    if not data.pictures:
        return None
    labels = [data.label(index) for index in range(len(data.run.labels))]
    examples = {one.id: _example(one, data.peers) for one in data.pictures}
    colors, who = class_colors(list(examples.values()), len(labels)), peer_colors(len(data.peers))
    large = {identity: _large(example.truth) for identity, example in examples.items()}

    def pictures(one: SampleImages, row: int) -> tuple[list[Picture], dict[str, str]]:
        found = [Picture(one.image, f"{one.name}, as it is", "image")]
        found += _pictures(examples[one.id], data.peers, labels, colors, who)
        return found, {"class": " ".join(map(str, large[one.id]))}

    occurring = sorted({value for values in large.values() for value in values})
    by_class = Filter("class", "Shows", [(str(value), labels[value]) for value in occurring])
    named = legend_entries(list(examples.values()), data.peers, labels, colors, who)
    teachers = [(peer, who[index]) for index, peer in enumerate(data.peers)]
    legend = {"Classes": named[: -len(teachers)], "Who can teach": teachers, "Changes": CHANGES}
    scenes = scenes_of(data, pictures, 3, score=Score("right, %", True, 0.1), filters=[by_class], legend=legend)
    if scenes is None:
        return None
    return Section(
        "images",
        "Images that changed most",
        [
            Text(
                "For every peer and direction in turn, those test images whose share of right pixels changed most. "
                "Who would teach on an image had the least cross-entropy on it at the start. These are the weights "
                "in the run's folders."
            ),
            scenes,
        ],
    )


def _large(truth: np.ndarray) -> list[int]:
    """The classes of at least a hundredth of an image."""
    values, counts = np.unique(truth[truth >= 0], return_counts=True)
    return values[counts >= 0.01 * truth.size].tolist()


def _pictures(
    example: Example, peers: Sequence[str], labels: Sequence[str], colors: Mapping[int, str], who: Mapping[int, str]
) -> list[Picture]:
    """The truth, who can teach where, and of every peer its maps and what became of the pixels."""
    name, truth = example.name, example.truth
    found = [
        Picture(indexed(truth, colors), f"{name}, truth: {_in_words(truth, labels)}", "truth"),
        Picture(
            indexed(example.teacher, who),
            f"{name}, who can teach: {_in_words(example.teacher, peers)}",
            "who can teach",
        ),
    ]
    fates, colors_of_fates = zip(*CHANGES, strict=True)
    for peer, before, after in zip(peers, example.before, example.after, strict=True):
        for phase, plane in (("before", before), ("after", after)):
            text = f"{name}, {peer} {phase}: {_in_words(plane, labels)}"
            found.append(Picture(indexed(plane, colors), text, f"{peer} {phase}"))
        was, now = before == truth, after == truth
        changes = np.select([truth < 0, was & now, now, was], [-1, 0, 1, 2], 3)
        text = f"{name}, {peer}, changes: {_in_words(changes, fates, len(fates))}"
        found.append(Picture(indexed(changes, dict(enumerate(colors_of_fates))), text, "changes"))
    return found


def _example(one: SampleImages, peers: Sequence[str]) -> Example:
    """The arrays of a kept sample; pixels that do not count are below 0."""

    def plane(content: bytes) -> np.ndarray:
        ids = read_map(content).astype(np.int64)
        return np.where(ids == NO_CLASS, -1, ids)

    before, after = (np.stack([plane(one.maps[f"{phase}/{name}"]) for name in peers]) for phase in ("before", "after"))
    truth = plane(one.truth)
    teacher = plane(one.teacher) if one.teacher is not None else np.full_like(truth, -1)
    return Example(one.name, decoded(one.image), truth, before, after, teacher)


def indexed(plane: np.ndarray, colors: Mapping[int, str]) -> bytes:
    """A map of ids `[H, W]` as a PNG with a palette; ids without a colour in that of pixels that do not count."""
    shades = sorted({NONE, *colors.values()})
    places = {index: shades.index(color) for index, color in colors.items()}
    pixels = np.full(plane.shape, shades.index(NONE), np.uint8)
    for index, place in places.items():
        pixels[plane == index] = place
    image = Image.fromarray(pixels, "P")
    image.putpalette([part for shade in shades for part in bytes.fromhex(shade[1:])])
    return encoded(image, "PNG", optimize=True)


def _in_words(plane: np.ndarray, names: Sequence[str], most: int = 3) -> str:
    """What covers most of a map: `"water 61 %, ice 20 %, forest 9 %"`."""
    values, counts = np.unique(plane[plane >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most].tolist()
    parts = [f"{names[int(values[place])]} {100 * counts[place] / plane.size:.0f} %" for place in order]
    return ", ".join(parts) or "nothing"
