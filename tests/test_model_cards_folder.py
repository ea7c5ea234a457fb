"""The cards in `model_cards/` are what today's code makes of the records beside them."""

import json
import shutil
from pathlib import Path

import pytest
from hub_cards import check_card

from hf_mutual_kd.model_card import write_cards
from hf_mutual_kd.results import markdown

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/cohort.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_kept_cards_are_up_to_date(folder, tmp_path):
    """Cards that nobody rebuilds drift away from the code that claims to make them."""
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


def test_the_readme_shows_the_kept_table():
    """A table that was typed by hand outlives the run that it came from."""
    folder = ROOT / "model_cards" / "vit_classify"
    table = markdown(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    assert (folder / "results.md").read_text(encoding="utf-8") == table
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_kept_cards():
    """The test above passes for an empty folder."""
    assert FOLDERS
