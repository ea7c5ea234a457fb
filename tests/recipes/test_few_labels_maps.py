"""The part on few labels of the pages on maps: made of what was run, and kept by who writes the rest."""

import json
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import few_labels_maps as maps  # noqa: E402

PEERS = ("a", "b")


def made_up(folder: Path, kept: float) -> None:
    """What a run leaves of one seed; peer b is a tenth better than a in every arm."""
    for name, value in (("control", 0.20), ("self", 0.21), ("taught", 0.19), ("mutual", kept)):
        ends = {peer: {"mIoU": value + 0.1 * place} for place, peer in enumerate(PEERS)} | {"cohort": {"samples": 3}}
        starts = {peer: {"mIoU": 0.15 + 0.1 * place} for place, peer in enumerate(PEERS)}
        arms = json.loads(path.read_text()) if (path := folder / "staged/stages/arms.json").is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([*arms, {"name": name, "start": starts, "end": ends}]))
    facts = {"kept": {peer: {"what": "mutual", "alpha": 0.5} for peer in PEERS}, "way": "mean"}
    facts["validation"] = {"start": {"a": 0.1, "b": 0.3}, "control": {"a": 0.2, "b": 0.1}}
    (folder / "staged/stages/stages.json").write_text(json.dumps({"facts": facts}))
    for kind, ends in {"pixel": (0.22, 0.27), "fixed": (0.30, 0.30)}.items():
        (folder / kind).mkdir()
        (folder / kind / "results.json").write_text("{}")
        end = {peer: {"mIoU": value} for peer, value in zip(PEERS, ends, strict=True)}
        (folder / kind / "summary.json").write_text(json.dumps({"end": end}))


def test_gains_are_over_the_best_that_a_user_has_alone(tmp_path):
    """A gain over the weakest control, such as one without per-pixel cross-entropy, is no gain through peers."""
    setting = maps.SETTINGS["segment"]
    for seed, kept in ((0, 0.24), (1, 0.26)):
        made_up(tmp_path / "share-10" / f"seed-{seed}", kept)
    runs = maps.read(setting, 10, (0, 1, 2), tmp_path)
    assert [run["seed"] for run in runs] == [0, 1]
    assert [maps.best_control(runs, peer) for peer in PEERS] == ["pixel", "self"]
    assert maps.gains(runs, "a") == pytest.approx([2.0, 4.0])
    assert maps.gains(runs, "b") == pytest.approx([3.0, 5.0])
    part = maps.section(setting, {10: runs}, [])
    assert "### 10 %: 34 of 344 tiles, 2 seeds" in part
    assert "| a | 15.0 | 20.0 | 22.0 | 21.0 | 30.0 | 19.0 | 25.0 | +3.00 ± 12.71 (labels alone + pixel CE) |" in part
    assert "is +3.50 points of mIoU from the best" in part
    assert "what was kept is +0.00 points of mIoU from the peers that it taught" in part
    assert "and +7.50 from the one that validation favours" in part


def test_a_page_keeps_its_part_and_has_it_once(tmp_path):
    """A benchmark that writes its page anew would delete the part that another command made."""
    page = tmp_path / "page.md"
    page.write_text(maps.with_section("# Title\n\nOld.\n", f"{maps.HEADING}\n\nOne.\n"))
    assert page.read_text() == "# Title\n\nOld.\n\n## Few labels\n\nOne.\n"
    page.write_text("# New\n" + maps.kept_section(page))
    assert page.read_text() == "# New\n\n## Few labels\n\nOne.\n"
    assert maps.with_section(page.read_text(), f"{maps.HEADING}\n\nTwo.\n") == "# New\n\n## Few labels\n\nTwo.\n"
    assert maps.kept_section(tmp_path / "none.md") == ""


def test_every_share_is_a_recipe_that_hides_so_many_labels():
    """A share that is not handed on trains on all labels under another heading."""
    setting = maps.SETTINGS["saliency"]
    words = maps.command_of(setting, 10, 3, Path("x"), kind="staged", given=["--max_steps", "2"])
    assert words[words.index("--max_labelled_samples") + 1] == "12"
    assert words[words.index("--seeds") + 1] == words[words.index("--data_seed") + 1] == "3"
    assert words[-4:-2] == ["--max_steps", "2"]
    everything = maps.command_of(setting, 100, 0, Path("x"), kind="staged", given=[])
    assert everything[everything.index("--max_labelled_samples") + 1] == "null"
    pixel = maps.command_of(maps.SETTINGS["segment"], 10, 0, Path("x"), kind="pixel", given=[])
    assert pixel[pixel.index("--labelled_share") + 1] == "0.25"
    assert pixel[pixel.index("--transfer_weight") + 1] == "0"
    fixed = maps.command_of(setting, 100, 0, Path("x"), kind="fixed", given=[])
    assert "--labelled_share" not in fixed
    assert fixed[fixed.index("--teacher_rule") + 1] == "fixed:swin3d"
