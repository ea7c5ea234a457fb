"""The report: the whole page, its numbers by hand, hostile text, runs with few facts, comparisons."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile_text import HOSTILE
from made_up_report import SAMPLES, rows_of_test, write_report_run
from made_up_run import RUNS, made_up_record, made_up_results, write_full_run, write_history, write_run

from hf_mutual_kd import DataError, OutputFolderError, compare_runs, make_task, read_run, write_report
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.reports.interactive import LIBRARY
from hf_mutual_kd.reports.predictions import PeerOutputs, Predictions
from hf_mutual_kd.reports.report_data import (
    MOST_SAMPLES,
    choose_flips,
    confusion,
    confusion_changes,
    corrections,
    read_report_data,
    read_teaching,
    reliability,
)
from hf_mutual_kd.reports.teaching_section import teaching_section

TASK = make_task("image-classification")

VOID = {"meta", "link", "img", "source", "br", "input"}
SECTION_IDS = ["results", "training", "teaching", "sources", "flips", "calibration", "confusions", "making"]


class Page(HTMLParser):
    """Parses a page strictly: every tag that opens closes, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_report_run(tmp_path_factory.mktemp("runs") / "run")
    arm = {"name": "mutual", "seed": 0, "steps": 9, "seconds": 1.0, "start": {}, "end": {}}
    (folder / "summary.json").write_text(json.dumps(arm | {"best_steps": {"vit": 1200}}), encoding="utf-8")
    write_report(folder, rows_of_test(), task=TASK)
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report" / "index.html").read_text(encoding="utf-8"))


def test_every_section_is_there_and_named_in_the_navigation(page, run):
    """A section that silently vanishes, or a link that leads nowhere."""
    ids = [section["id"] for section in page.all("section")]
    assert ids == SECTION_IDS
    links = [link["href"] for link in page.all("a")]
    beside = [link for link in links if not link.startswith("#")]
    assert [link for link in links if link not in beside] == ["#main", *(f"#{name}" for name in ids)]
    assert {"../results.json", "../roles.parquet", "../vit/"} <= set(beside)
    assert all((run / "report" / link).exists() for link in beside)
    named = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(named) == len(set(named))
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(named)


def test_the_page_needs_no_network(page, run):
    """A page that loads a font from the web is empty on a train and tells others who reads it."""
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    urls = [
        value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "srcset", "href")
    ]
    assert all(url.startswith(("data:", "#", "../")) for url in urls)
    loaded = [one.get(key, "") for _, one in page.tags for key in ("src", "srcset")]
    assert all(url.startswith("data:") for url in loaded if url)
    ours = text.replace(LIBRARY.read_text(encoding="utf-8"), "")
    assert len(ours) < len(text)
    assert not re.search(r"https?://|@import|url\(", ours)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_landmarks_headings_captions_and_alt_texts(page):
    """A page that a screen reader cannot walk through."""
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(tag) for tag in ("header", "main", "nav", "footer", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))
    assert tags.count("caption") == tags.count("table")
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"].strip() for image in page.all("img"))
    assert len({image["alt"] for image in page.all("img")}) == len(page.all("img"))


def test_the_numbers_of_the_records_are_on_the_page(page):
    """A page of figures without the result, its control and the verdict."""
    gain = "+0.70 ± 0.05 points against its control: better than the control"
    for part in (gain, "within noise", "87.02", "clothes"):
        assert part in page.text
    assert f"{MOST_SAMPLES} of the 72 flipped samples" in page.text
    assert "T-shirt/top → Trouser" in page.text


def test_figures_lie_beside_the_page_in_one_size_for_both_themes(run, page):
    """A figure that is on the page but not in the folder, or that is unreadable in the dark."""
    names = {path.stem for path in (run / "report").glob("*.png")}
    assert {"overview", "curve-vit", "losses-vit", "taught", "flow-with-peers", "reliability-cnn"} <= names
    assert len(page.all("source")) == len(page.all("picture")) == len(names)


def test_the_same_records_give_the_same_bytes_and_keep_the_images(run):
    """A rebuilt page that differs by a date, or that has lost its images."""
    first = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    write_report(run, task=TASK)
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == first
    assert first["index.html"].count(b"data:image/jpeg") == MOST_SAMPLES


def test_rows_of_other_data_are_refused(run, tmp_path):
    """Images of one data set beside the outputs about another."""
    rows = rows_of_test()
    with pytest.raises(DataError, match="give the data set of the run"):
        write_report(run, rows[1:] + rows[:1], out=tmp_path, task=TASK)


def test_hostile_text_is_shown_as_text(tmp_path):
    """A label that runs a script, closes a table or breaks a figure."""
    record = made_up_record()
    record["labels"] = [*HOSTILE, "<img src=x onerror=alert(1)>"]
    record["dataset"] |= {"name": HOSTILE[2], "splits": dict.fromkeys(("train", "validation", "test"), HOSTILE[5])}
    record["peers"]["vit"] |= {"architecture": HOSTILE[6], "source": HOSTILE[8]}
    record["command"], record["hardware"]["device"] = " ".join(HOSTILE[:7]), HOSTILE[2]
    record["versions"] = {HOSTILE[0]: HOSTILE[5]}
    record["hyperparameters"]["changed"] = {text: text for text in HOSTILE}
    folder = write_report_run(tmp_path / "run", record)
    text = write_report(folder, rows_of_test(record), task=TASK).read_text(encoding="utf-8")
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    kinds = [one.get("type", "run") for one in page.all("script")]
    assert kinds.count("run") == 2
    assert set(kinds) == {"run", "application/json"}
    assert tags.count("style") == 1
    assert text.count("</script>") == len(kinds)
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert "a|b | c" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "x" * 400 not in text.replace("base64", "")[: text.index("</head>")]
    assert not set("\u202e\x00\x1b\r") & set(text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_neither_paths_nor_tokens_are_on_the_page(run):
    """A page that tells the user's name or token to whom it is sent."""
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(rf"/home|\bann\b|hf_abc|{re.escape(str(run))}", text)


@pytest.mark.parametrize("make", ["bare", "results"])
def test_a_run_with_few_facts_has_a_page_without_empty_sections(tmp_path, make):
    """None, nan or an empty table where a fact is missing."""
    record = {"task": "image-classification", "words": TASK.words.to_record(), "labels": ["a", "b"]}
    record["peers"] = {"vit": {"source": "peers/vit"}}
    results = made_up_results() if make == "results" else None
    if results:
        del results["peers"]["cnn"]
    page = Page(write_report(write_run(tmp_path, record, results), task=TASK).read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == (["results"] if results else []) + ["making"]
    assert not re.search(r"\bNone\b|\bnan\b", page.text)


@pytest.mark.parametrize("task", RUNS)
def test_every_task_has_a_page(tmp_path, task):
    """A task whose metric or missing predictions break the page after hours of training."""
    page = Page(write_report(write_full_run(tmp_path, task), task=make_task(task)).read_text(encoding="utf-8"))
    ids = [section["id"] for section in page.all("section")]
    assert [ids[0], ids[1], ids[-1]] == ["results", "training", "making"]
    # Nothing of single samples was recorded.
    assert not {"flips", "images", "calibration", "confusions", "videos", "frames"} & set(ids)
    assert not re.search(r"\bNone\b|\bnan\b", page.text)


def test_a_control_claims_no_teaching(tmp_path):
    """Plain fine-tuning sold as mutual transfer."""
    record = made_up_record()
    record["objective"]["weight"] = 0.0
    data = read_report_data(read_run(write_report_run(tmp_path, record)))
    assert teaching_section(data) is None


def test_reliability_by_hand():
    """A calibration error over the wrong bins, or one that counts samples without a label."""
    outputs = PeerOutputs(
        np.array([[1], [1], [0], [1]]), np.array([[0.95], [0.95], [0.55], [np.nan]]), np.zeros((4, 1))
    )
    found = reliability(outputs, np.array([1, 0, 0, 1]), 0)
    assert found.error == pytest.approx((2 * abs(0.5 - 0.95) + abs(1 - 0.55)) / 3)
    assert found.share.sum() == pytest.approx(1)
    assert reliability(outputs, np.array([-1] * 4), 0).error == 0


def test_corrections_by_hand(run):
    """Samples that are counted for a peer that did not know them."""
    data = read_report_data(read_run(run))
    found = corrections(data.predictions["mutual"])
    learned = 3 * SAMPLES * 3 // 10
    assert found.counts.tolist() == [learned, 0]
    assert found.known.tolist() == [learned, 0]
    assert found.flow.tolist() == [[0, 0], [learned, 0], [0, 0]]
    assert corrections([]) is None


def test_confusions_by_hand():
    """A change with the wrong sign, or the diagonal among the confusions."""
    both = PeerOutputs(np.array([[1], [0], [1]]), np.ones((3, 1)), np.ones((3, 1)))
    now = PeerOutputs(np.array([[0], [0], [0]]), np.ones((3, 1)), np.ones((3, 1)))
    part = Predictions(["a"], np.arange(3), np.array([0, 0, 1]), both, now)
    before, after = (confusion(part, phase, 0, 2) for phase in ("start", "after"))
    assert before.tolist() == [[1, 1], [0, 1]]
    assert after.tolist() == [[2, 0], [1, 0]]
    assert confusion_changes(before, after) == [(0, 1), (1, 0)]


def test_teaching_adds_up(run):
    """Decisions that are lost between the seeds, the classes and the matrix."""
    found = read_teaching(read_run(run))
    assert found.who == ["vit", "cnn", "<mean>", "<all>", "nobody"]
    assert found.total.tolist() == [108, 108, 24, 0, 0]
    assert found.by_class[-1].tolist() == [0, 0, 24, 0, 0]
    assert found.matrix(["vit", "cnn"]).tolist() == [[0, 108], [108, 0], [24, 24], [0, 0]]


def test_chosen_flips_cover_every_peer_kind_and_class(run):
    """Sixty times the same easy class."""
    part = read_report_data(read_run(run)).first
    rows = choose_flips(part, MOST_SAMPLES)
    assert len(rows) == len(set(rows)) == MOST_SAMPLES
    assert set(part.labels[rows].tolist()) == set(range(6))
    assert {tuple(flip) for flip in part.flips()[rows].tolist()} == {(1, 0), (1, -1)}
    assert len(choose_flips(part, 10_000)) == int(part.flips().any(axis=1).sum())


def test_runs_are_compared_by_result_curve_and_option(run, tmp_path):
    """Two runs under one name, or a difference in options that nobody sees."""
    other = made_up_record()
    other["hyperparameters"]["changed"]["learning_rate"] = 0.5
    second = write_run(tmp_path / "other" / "run", other, made_up_results())
    write_history(second, 0.001, "vit", "accuracy")
    page = Page(compare_runs([run, second], tmp_path / "out").read_text(encoding="utf-8"))
    assert [section["id"] for section in page.all("section")] == ["results", "training", "options"]
    assert "other/run" in page.text
    assert "learning_rate 1e-05 0.5" in page.text
    assert (tmp_path / "out" / "compare-vit.png").is_file()
    with pytest.raises(OutputFolderError, match="given twice"):
        compare_runs([run, run], tmp_path / "out")


def test_the_command_rebuilds_and_compares(run, tmp_path, capsys):
    """A command that needs the data or a network, or that fails with a traceback."""
    assert cli.main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page' / 'index.html'}\n"
    assert cli.main(["report", str(run), str(run)]) == 2
    assert "--out" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report/samples.safetensors", "report/pictures.parquet", "roles.parquet"])
def test_a_damaged_record_is_named(tmp_path, name):
    """A traceback that does not say which file is broken."""
    folder = write_report_run(tmp_path / "run")
    (folder / name).write_text("broken")
    with pytest.raises(OutputFolderError, match=f"{name} is damaged"):
        write_report(folder, task=TASK)


def test_escapes_are_not_doubled(page):
    """A label that reads `T-shirt&amp;top`."""
    assert html.unescape(page.text) == page.text
