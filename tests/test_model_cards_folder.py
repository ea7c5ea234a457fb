"""The cards in `model_cards/` are what today's code makes of the records beside them."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from hub_cards import check_card
from made_up_run import RUNS, write_full_run

from hf_mutual_kd import markdown, read_run, write_cards

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/cohort.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_kept_cards_are_up_to_date(folder, tmp_path):
    """Cards that nobody rebuilds drift away from the code that claims to make them."""
    check_kept(folder, tmp_path)


def test_runs_of_several_recipes_are_kept_beside_each_other(tmp_path):
    """Cards of the second recipe that replace those of the first, or that lack what they are rebuilt from."""
    spec = importlib.util.spec_from_file_location("collect_cards", ROOT / "recipes" / "collect_cards.py")
    collect_cards = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(collect_cards)
    runs = [write_full_run(tmp_path / "runs" / task, task) for task in RUNS]
    assert collect_cards.main(str(tmp_path / "kept"), *map(str, runs)) == 0
    assert collect_cards.main(str(tmp_path / "kept"), str(runs[0])) == 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(RUNS)
    for run in runs:
        check_kept(tmp_path / "kept" / run.name, tmp_path / "again")


def check_kept(folder, tmp_path):
    """The cards in `folder` are what its records give."""
    run = tmp_path / folder.name
    shutil.copytree(folder, run)
    for card in run.glob("*/README.md"):
        card.unlink()
    cards = write_cards(run)
    assert set(cards) == {path.parent.name for path in folder.glob("*/README.md")}
    for name, card in cards.items():
        text = card.read_text(encoding="utf-8")
        assert text == (folder / name / "README.md").read_text(encoding="utf-8")
        assert check_card(text, "model")[0] == []
        figures = {figure.name for figure in (run / name / "figures").iterdir()}
        assert figures == {figure.name for figure in (folder / name / "figures").iterdir()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_page_shows_the_kept_table(folder):
    """A table that was typed by hand outlives the run that it came from."""
    run = read_run(folder)
    table = markdown(run.results, run.words)
    assert (folder / "results.md").read_text(encoding="utf-8") == table
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert [page.name for page in pages if table in page.read_text(encoding="utf-8")]


def test_the_readme_is_short_and_leads_with_the_kept_run():
    """A front door of 3,000 words is not read, and a headline of other numbers than the kept ones is a false claim."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert (ROOT / "model_cards" / "vit_classify" / "results.md").read_text(encoding="utf-8") in text
