"""A card and the README that was there: what the user wrote stays, and a repeated merge changes nothing."""

import re
from pathlib import Path

import pytest
from hub_cards import check_card, front_matter
from hub_run import CARD

from hf_mutual_kd import PeerError
from hf_mutual_kd.reports.readme_merge import BEGIN, END, merge_readme

GOLDEN = Path(__file__).parents[1] / "golden"
HEAD = CARD.split("\n\n")[0] + "\n"
BLOCK = f"{BEGIN}\n# A peer\n\nText of ours.\n{END}"


def test_a_users_own_text_and_keys_survive():
    """Sections that a user wrote and that the next push throws away."""
    new = (GOLDEN / "model_card_vit.md").read_text(encoding="utf-8")
    mine = new.replace(BEGIN, f"My intro\n\n{BEGIN}").replace("task", "TASK", 1) + "\n## My section\n\n---\nmine\n"
    mine = mine.replace("---\n", "---\nwidget: []\n", 1).replace("tags:\n", "tags:\n- my-tag\n", 1)
    merged = merge_readme(new, mine)
    assert (
        merged.index("My intro")
        < merged.index(BEGIN)
        < merged.index(END)
        < merged.index("## My section\n\n---\nmine\n")
    )
    assert front_matter(merged)["widget"] == []
    assert "my-tag" in front_matter(merged)["tags"]
    assert merged.count(BEGIN) == 1
    assert merge_readme(new, merged) == merged
    assert check_card(merged) == ([], [])


@pytest.mark.parametrize(
    "existing", ["", "Just text\n", "---\nlicense: mit\n---\n# Mine\n", f"lost\n{BEGIN}\nopen\n", "---\n---\nx"]
)
def test_a_readme_without_our_card_is_kept_below_it(existing):
    """A first push over a README that the user has written; a block whose end was deleted."""
    new = (GOLDEN / "model_card_cnn.md").read_text(encoding="utf-8")
    merged = merge_readme(new, existing)
    assert merged.count(BEGIN) == merged.count(END) == 1
    for words in re.findall("Just text|# Mine|lost|open|x$", existing):
        assert words in merged.split(END)[1]
    assert front_matter(merged)["license"] == "cc-by-nc-4.0"
    assert merge_readme(new, merged) == merged
    assert merge_readme(new, "") == new


def test_metadata_that_cannot_be_read_is_not_thrown_away():
    """A user's metadata lost because of one typing error."""
    with pytest.raises(PeerError, match="^mine: its metadata is not readable as YAML; correct it"):
        merge_readme(CARD, "---\na: [\n---\nx", "mine")
    with pytest.raises(PeerError, match="^mine: its metadata must be a mapping, got 'text'; correct it"):
        merge_readme(CARD, "---\ntext\n---\nx", "mine")


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (None, CARD),
        (CARD, CARD),
        ("", CARD),
        ("# Mine", f"{HEAD}{BLOCK}\n\n# Mine\n"),
        (f"above\n{BEGIN}\nold\n{END}\n\n\nbelow", f"{HEAD}above\n\n{BLOCK}\n\nbelow\n"),
        (f"a {BEGIN} b {END} c", f"{HEAD}{BLOCK}\n\na {BEGIN} b {END} c\n"),
        (f"{BEGIN}\n1\n{END}\nx\n{BEGIN}\n2\n{END}\ny", f"{HEAD}{BLOCK}\n\nx\n\n\ny\n"),
        ("---\ntags: mine\n---\n", f"---\nlicense: mit\ntags:\n- demo\n- mine\n---\n{BLOCK}\n"),
        ("\ufeff---\nx: 1\n---\r\na\r\nb", f"{HEAD[:-4]}x: 1\n---\n{BLOCK}\n\na\r\nb\n"),
    ],
)
def test_merging_keeps_foreign_text_and_is_stable(present, expected):
    """A merge that adds something each time would make a commit of every push."""
    merged = merge_readme(CARD, present)
    assert merged == expected
    assert merge_readme(CARD, merged) == merged


@pytest.mark.parametrize(
    ("built", "present", "expected"),
    [
        ("# New\n", "# Old\n", "# New\n"),
        ("# New\n", f"above\n\n{BLOCK}\n\nbelow\n", f"above\n\n{BEGIN}\n# New\n{END}\n\nbelow\n"),
        (f"{BLOCK}\n\nlocal\n", f"{BEGIN}\nold\n{END}\n", f"{BLOCK}\n\nlocal\n"),
        (f"{BLOCK}\n\nlocal\n", f"{BEGIN}\nold\n{END}\n\ntheirs\n", f"{BLOCK}\n\ntheirs\n"),
    ],
)
def test_text_outside_the_block_is_not_doubled(built, present, expected):
    """A section that a user wrote into the run's card, once more below itself after each push."""
    assert merge_readme(built, present) == expected
    assert merge_readme(built, expected) == expected
