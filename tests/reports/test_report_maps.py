"""The report of tasks with maps: sections, numbers by hand, pictures in words, old runs, hostile text."""

import io
import re

import numpy as np
import pytest
from hostile_text import HOSTILE
from made_up_maps import MAP_TASKS, SAMPLES, VIDEOS, write_map_run
from made_up_run import segmentation_record
from PIL import Image
from test_html_report import Page

from hf_mutual_kd import TASKS, OutputFolderError, make_task, read_run, write_report
from hf_mutual_kd.reports.making_section import making_section
from hf_mutual_kd.reports.pictures import PICTURES
from hf_mutual_kd.reports.report_data import read_report_data
from hf_mutual_kd.reports.results_section import results_section
from hf_mutual_kd.reports.samples import SAMPLES_FILE
from hf_mutual_kd.tasks.semantic_segmentation.report import (
    classes_section,
    pixel_confusion_section,
    pixel_flips_section,
)
from hf_mutual_kd.tasks.semantic_segmentation.report_images import CHANGES, images_section, indexed
from hf_mutual_kd.tasks.video_saliency.report import frames_section, metrics_section, videos_section

IDS = {
    "semantic-segmentation": ["classes", "flips", "images", "calibration", "confusions"],
    "video-saliency": ["metrics", "videos", "frames"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = {task: write_map_run(tmp_path_factory.mktemp("maps") / task, task) for task in MAP_TASKS}
    for task, folder in found.items():
        write_report(folder, task=make_task(task))
    return found


def text_of(run):
    return (run / "report" / "index.html").read_text(encoding="utf-8")


def data_of(run):
    return read_report_data(read_run(run))


def rows_of(section, place=0):
    tables = [block for block in section.blocks if block.kind == "table"]
    return [[getattr(cell, "text", cell) for cell in row] for row in tables[place].rows]


def test_every_page_begins_with_the_results():
    """A page of which the reader has to look for what was found and how."""
    for task in TASKS.values():
        assert task.report_sections[0] is results_section
        assert task.report_sections[-1] is making_section


@pytest.mark.parametrize("task", MAP_TASKS)
def test_the_page_has_every_section_and_no_hole(runs, task):
    """A section that silently vanishes, or None where a number is missing."""
    page = Page(text_of(runs[task]))
    ids = [section["id"] for section in page.all("section")]
    assert ids == ["results", "training", "teaching", *IDS[task], "making"]
    assert not re.search(r"\bNone\b|\bnan\b", page.text)


@pytest.mark.parametrize("task", MAP_TASKS)
def test_pictures_are_told_in_words(runs, task):
    """A map that a screen reader calls 'image', or two that it cannot tell apart."""
    page = Page(text_of(runs[task]))
    alts = [image["alt"] for image in page.all("img")]
    assert all(alt.strip() for alt in alts)
    assert len(set(alts)) == len(alts)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert len([one for one in page.all("li") if "scene" in one.get("class", "")]) == SAMPLES


@pytest.mark.parametrize("task", MAP_TASKS)
def test_the_same_records_give_the_same_bytes(runs, task):
    """A rebuilt page that differs by a date or by the order of a set."""
    first = text_of(runs[task])
    write_report(runs[task], task=make_task(task))
    assert text_of(runs[task]) == first


def test_classes_are_shaded_by_their_change(runs):
    """The classes that lost most below those that did not move."""
    rows = rows_of(classes_section(data_of(runs["semantic-segmentation"])))
    assert rows[0] == ["water", "50.00", "80.00", "82.00", "83.00", "+3.00", "+1.00"]
    assert rows[1] == ["forest", "50.00", "30.00", "32.00", "31.00", "+1.00", "−1.00"]
    assert len(rows) == 2


def test_flips_and_confusions_by_hand(runs):
    """Shares of another class's pixels, or seeds that are added up on one side alone."""
    data = data_of(runs["semantic-segmentation"])
    flips = pixel_flips_section(data)
    assert rows_of(flips)[:2] == [
        ["all classes", "+12.50 −2.50", "+0.00 −0.00", "100.00"],
        ["water", "+25.00 −5.00", "+0.00 −0.00", "50.00"],
    ]
    assert rows_of(flips, 1)[0] == ["seg", "12.50", "2.50", "40.00", "7.50", "2.50", "66.67"]
    confused = rows_of(pixel_confusion_section(data))
    assert confused[0] == ["water → forest", "40.00", "30.00", "20.00", "−20.00", "−10.00"]


def test_samples_are_found_by_what_they_show(runs):
    """A filter by which no sample is found, or the change of another sample."""
    data = data_of(runs["semantic-segmentation"])
    scenes = next(block for block in images_section(data).blocks if block.kind == "scenes")
    assert [one.name for one in scenes.filters] == ["peer", "kind", "teacher", "class"]
    first, second, third = scenes.items[:3]
    assert first.values == {"flips": "seg:better", "teacher": "seg", "class": "1"}
    assert second.values == {"flips": "seg:worse", "teacher": "m2f", "class": "0 1"}
    assert third.values["teacher"] == "nobody"
    rows = [[getattr(cell, "text", cell) for cell in row] for row in first.numbers.rows]
    assert rows == [["seg", "50.00", "60.00", "70.00"], ["m2f", "50.00", "50.00", "50.00"]]
    names = [one.alt for one in second.pictures]
    assert "sample 1, seg before: water 92 %, forest 8 %" in names
    assert any(alt.startswith("sample 1, seg, changes: learned 90 %") for alt in names)
    assert [text for text, _ in scenes.legend["Changes"]] == [text for text, _ in CHANGES]


def test_a_map_keeps_its_colours():
    """A palette that is sorted into another order than the pixels."""
    content = indexed(np.array([[0, 1], [-1, 7]]), {0: "#ff0000", 1: "#0000ff"})
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).tolist()
    assert pixels == [[[255, 0, 0], [0, 0, 255]], [[0xDE] * 3, [0xDE] * 3]]


def test_videos_and_frames_by_hand(runs):
    """The gain of one video under the name of another."""
    data = data_of(runs["video-saliency"])
    assert rows_of(videos_section(data)) == [
        [VIDEOS[0], "3", "0.500", "0.600", "0.700", "+0.100"],
        [VIDEOS[1], "3", "0.500", "0.500", "0.500", "+0.000"],
    ]
    scenes = next(block for block in frames_section(data).blocks if block.kind == "scenes")
    assert scenes.items[1].values == {"flips": "mae:worse", "teacher": "s3d", "video": "1"}
    assert scenes.filters[-1].choices == [("0", VIDEOS[0]), ("1", VIDEOS[1])]
    assert scenes.items[0].pictures[1].alt.endswith("where people looked; most likely at the top left")


def test_smaller_is_better_is_shaded_so(runs):
    """A KLD that fell in the colour of losses."""
    section = metrics_section(data_of(runs["video-saliency"]))
    table = next(block for block in section.blocks if block.kind == "table")
    heats = {row[0]: row[-1].heat for row in table.rows}
    assert heats["CC"] > 0
    assert heats["KLD, nats (smaller is better)"] > 0
    assert [row for row in table.rows if row[0].startswith("KLD")][0][-1].text.startswith("−")


def test_hostile_text_is_shown_as_text(tmp_path, runs):
    """A class or a video whose name runs a script."""
    record = segmentation_record()
    record["labels"] = ["<img src=x onerror=alert(1)>", HOSTILE[0], HOSTILE[5]]
    write_report(write_map_run(tmp_path, "semantic-segmentation", record), task=make_task("semantic-segmentation"))
    for folder in (tmp_path, runs["video-saliency"]):
        page = Page(text_of(folder))
        kinds = [one.get("type", "run") for one in page.all("script")]
        assert kinds.count("run") == 2
        assert set(kinds) == {"run", "application/json"}
        assert "b" not in [tag for tag, _ in page.tags]
        assert all(image["src"].startswith("data:image/") for image in page.all("img"))
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", [SAMPLES_FILE, PICTURES])
def test_a_damaged_record_is_named(tmp_path, name):
    """A traceback that does not say which file is broken."""
    folder = write_map_run(tmp_path, "semantic-segmentation")
    (folder / name).write_bytes(b"broken")
    with pytest.raises(OutputFolderError, match=f"{name.name} is damaged"):
        write_report(folder, task=make_task("semantic-segmentation"))
