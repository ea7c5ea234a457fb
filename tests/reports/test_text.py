"""Text of cards: escaping, code blocks, what is hidden, YAML."""

import html
import re

import pytest
import yaml
from hostile_text import HOSTILE
from markdown_it import MarkdownIt

from hf_mutual_kd.reports.text import (
    code,
    dump_front_matter,
    escape,
    fence,
    portable,
    portable_command,
    scrub,
    scrub_command,
    split_readme,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_shown_as_it_is(text):
    """Escaping that drops or doubles what a label says."""
    shown = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| a |\n|---|\n| {escape(text, 9999)} |\n")
    )
    expected = "".join(character for character in text if character not in "\u202e\x00\x1b\ud800")
    cell = html.unescape(re.search("<td>(.*)</td>", shown)[1]).replace("\ufffd", "")
    assert cell.replace(" ", "") == re.sub(r"\s", "", expected)
    assert shown.count("<td>") == 1


def test_a_code_block_is_not_closed_by_what_is_in_it():
    """A citation with a fence inside, after which the rest of the card is code."""
    page = MarkdownIt().render(fence("a\n````\n# not a heading", "text") + "\n\nafter")
    assert "<h1>" not in page
    assert "<p>after</p>" in page
    assert code("`|`") == "<code>&#96;&#124;&#96;</code>"


def test_commands_and_texts_lose_paths_and_secrets():
    """A user's name or token in the line that repeats the run."""
    assert scrub_command("run --a=/x/y/z --hub_token hf_1 --peers v=/home/ann/v@main '/a b/c d.yaml' runs/x") == (
        "run --a=z --hub_token '(hidden)' --peers v=v@main 'c d.yaml' runs/x"
    )
    assert scrub_command("run --peers 'v=/home/ann b/v' '--out=w=/c d/e'") == "run --peers v=v --out=w=e"
    assert scrub_command("HF_TOKEN=abc run --hub-token=abc") == "'HF_TOKEN=(hidden)' run '--hub-token=(hidden)'"
    assert scrub("~/runs, C:\\Users\\ann\\x, /home/ann, ../bob/x, https://hf.co/a/b, a/b, file:///home/ann/d") == (
        "runs, x, HOME, x, https://hf.co/a/b, a/b, d"
    )


@pytest.mark.parametrize("text", ["1234567890e12", "+1e5", ".5e3", "-.5e3", "0x1F", "2024-01-01", "1_000"])
def test_text_that_another_yaml_parser_takes_for_a_number_is_quoted(text):
    """A commit of digits and one `e` becomes a number on the Hub, whose parser knows more of them than PyYAML."""
    dumped = dump_front_matter({"revision": text})
    assert dumped == f"---\nrevision: '{text}'\n---\n"
    assert split_readme(dumped) == ({"revision": text}, "")
    assert yaml.safe_load(dumped.split("---\n")[1]) == {"revision": text}


def test_recorded_paths_tell_no_user(tmp_path, monkeypatch):
    """A record that is shared, and with it a user's name; or a label that looks like a path and is changed."""
    home, work = tmp_path / "home" / "ann", tmp_path / "home" / "ann" / "work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    given = {"peers": [f"vit={work}/peers/vit", "me/vit"], "dataset": f"{home}/data", "steps": 3}
    assert portable(given) == {"peers": ["vit=peers/vit", "me/vit"], "dataset": "~/data", "steps": 3}
    assert portable(f"dhf1k:{home}/DHF1K") == "dhf1k:~/DHF1K"
    assert portable("https://example.org/x") == "https://example.org/x"
    assert portable(f"{tmp_path}/data") == "../../../data"
    assert portable_command(f"run.py --dataset {work}/d --note 'a b'") == "run.py --dataset d --note 'a b'"
