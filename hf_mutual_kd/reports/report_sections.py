"""The sections of a report by their names, of which [`TaskWords`] says which a task has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..tasks.image_classification.report import calibration_section, confusion_section, flips_section
from ..tasks.semantic_segmentation.report import (
    classes_section,
    pixel_calibration_section,
    pixel_confusion_section,
    pixel_flips_section,
)
from ..tasks.semantic_segmentation.report_images import images_section
from ..tasks.video_saliency.report import frames_section, metrics_section, videos_section
from .blocks import Section
from .making_section import examples_section, making_section
from .report_data import ReportData
from .results_section import results_section, training_section
from .teaching_section import corrections_section, teaching_section

SECTIONS: Mapping[str, Callable[[ReportData], Section | None]] = {
    "results": results_section,
    "training": training_section,
    "teaching": teaching_section,
    "corrections": corrections_section,
    "flips": flips_section,
    "calibration": calibration_section,
    "confusion": confusion_section,
    "classes": classes_section,
    "pixel_flips": pixel_flips_section,
    "images": images_section,
    "pixel_calibration": pixel_calibration_section,
    "pixel_confusion": pixel_confusion_section,
    "metrics": metrics_section,
    "videos": videos_section,
    "frames": frames_section,
    "examples": examples_section,
    "making": making_section,
}
"""Each is a function from a run's records to what the page shows; one that has nothing to show returns `None`."""


def sections_of(data: ReportData) -> list[Section]:
    """The sections of a run, in the order of its task, without those that have nothing to show."""
    return [section for name in data.run.words.report if (section := SECTIONS[name](data)) is not None]
