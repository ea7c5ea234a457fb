"""Names of classes that a data set brings: one escaped line each, wherever they are shown or sent."""

from __future__ import annotations

import json
import re

import pytest
from made_up_run import made_up_record, made_up_results, write_run
from markdown_it import MarkdownIt

from hf_mutual_kd import ImageClassification, read_run, write_cards, write_report
from hf_mutual_kd.hub.space.build import _facts
from hf_mutual_kd.hub.space.readme import readme
from hf_mutual_kd.reports.text import split_readme

BREAKING = "cat\n```\n# Buy this\n\n[here](http://evil.example)\n"
TICKS = "dog " + "`" * 7
LABELS = [BREAKING, TICKS, "plain", "~~~", "a\r\nb", "</code></pre><h1>x"]


@pytest.fixture
def run(tmp_path):
    """Made up: what the snippet printed holds every name as it is."""
    record = made_up_record() | {"labels": LABELS}
    record["usage"] = {"vit": "\n".join(f"{label} 0.{place}" for place, label in enumerate(LABELS))}
    record["example"] = {"row": 0, "label": BREAKING}
    record["dataset"] |= {"name": BREAKING, "note": BREAKING}
    return write_run(tmp_path / "run", record, made_up_results())


def html_of(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(split_readme(markdown)[1])


def test_a_name_of_a_class_stays_inside_its_line_of_a_card(run):
    """Headings and links of a data set's author in the README that `push` sends in the user's name."""
    text = write_cards(run)["vit"].read_text(encoding="utf-8")
    page = html_of(text)
    assert 'evil.example"' not in page
    assert not re.search(r"<h\d>\s*(Buy|x)", page)
    (block,) = (
        part for part in re.findall(r"<pre><code[^>]*>(.*?)</code></pre>", page, re.DOTALL) if "plain 0.2" in part
    )
    assert len(block.strip().splitlines()) == len(LABELS)
    assert block.startswith("cat ``` # Buy this [here](http://evil.example) 0.0\ndog ``````` 0.1\nplain 0.2\n")
    assert "\n````````text\n" in text, "the fence is longer than any in the text"


def test_neither_a_space_nor_a_report_shows_them_otherwise(run):
    """The same in the README of a Space, in what its app shows, and on the page of the report."""
    record, task = read_run(run), ImageClassification()
    peers = [{"name": "vit", "card": None, "said": f"says {BREAKING}"}]
    page = html_of(readme(record, ["vit"], [], peers, task.space))
    assert 'href="http://evil' not in page
    assert page.count("<h1>") == 1
    assert page.count("<tr>") == 2
    shown = _facts(record, task.space, [], [])
    assert all("\n" not in label for label in [*shown["labels"], *shown["intro"]])
    report = write_report(run, task=task).read_text(encoding="utf-8")
    assert "<h1>x" not in report
    assert 'href="http://evil' not in report
    assert json.dumps(LABELS[-1]) not in report
