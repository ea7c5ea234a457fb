"""The pages on few labels: what a run held is read from it, and every control that was trained counts."""

import argparse
import json
import math
import sys
from pathlib import Path

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import few_labels  # noqa: E402
import other_controls  # noqa: E402
from few_labels_tables import best_control, drawn_page, gain, labels_of, page, read  # noqa: E402

CELL = few_labels.Cell(10, "new", ("a", "b"))
OPTIONS = argparse.Namespace(rows=200, measured=60, epochs=2, learning_rate=1e-3, rates=[1e-3], seeds=[0, 1])


def made_up(folder: Path, labels: int, **ends: float) -> None:
    """What one seed leaves: peer b is a tenth better than a in every arm."""

    def of_peers(value):
        return {peer: {"accuracy": value + 0.1 * place} for place, peer in enumerate(CELL.peers)}

    (folder / "stages").mkdir(parents=True)
    arms = [{"name": name, "start": of_peers(0.1), "end": of_peers(value)} for name, value in ends.items()]
    (folder / "stages/arms.json").write_text(json.dumps(arms))
    stages = {"way-mean": {"seconds": 3.0}, "control": {"seconds": 2.0}, "self": {"seconds": 3.0}}
    facts = {"kept": {peer: {"what": "mutual", "alpha": 0.5} for peer in CELL.peers}, "way": "mean", "stages": stages}
    facts["validation"] = {"control": {"a": 0.5, "b": 0.4}, "self": {"a": 0.4, "b": 0.5}}
    (folder / "stages/stages.json").write_text(json.dumps({"facts": facts}))
    (folder / "cohort.json").write_text(json.dumps({"dataset": {"labelled": {"train": labels}}}))


def test_labels_are_those_that_a_run_held_and_no_control_is_left_out(tmp_path):
    """A page that says what was asked for claimed 100 labels per class of runs that held seven."""
    ends = {"control": 0.4, "self": 0.45, "taught": 0.5, "mutual": 0.55}
    for seed, labels in ((0, 98), (1, 100)):
        made_up(tmp_path / CELL.name / f"seed-{seed}", labels, **ends)
    runs = read(CELL, tmp_path, (0, 1, 2))
    assert labels_of(runs) == "98 to 100"
    assert gain(runs, "mutual", "a") == pytest.approx([10.0, 10.0])
    better = {"fixmatch": {"a": {"accuracy": 0.6}, "b": {"accuracy": 0.2}}}
    for seed in (0, 1):
        (tmp_path / CELL.name / f"seed-{seed}" / "others.json").write_text(json.dumps(better))
    runs = read(CELL, tmp_path, (0, 1))
    assert [best_control(runs, peer) for peer in CELL.peers] == ["fixmatch", "self"]
    assert gain(runs, "mutual", "a") == pytest.approx([-5.0, -5.0])
    written = page({CELL: runs}, OPTIONS)
    assert "## New heads, 10 labels per class, a + b: 98 to 100 labels, 2 seeds" in written
    assert "| a | 10.0 | 40.0 | 45.0 | 60.0 | 50.0 | 55.0 | -5.00 ± 0.00 (fixmatch) |" in written
    assert "1 of 2 worse beyond noise, 1 below at all, at most by 5.00" in written
    assert "against the one that validation favours +12.50" in written
    assert "| 10 | 98 to 100 | new | a | 10.0 |" in drawn_page({CELL: runs}, OPTIONS)


def test_a_page_of_no_run_is_not_written(tmp_path, monkeypatch):
    """`--report` in the wrong folder would replace the page by an empty one."""
    monkeypatch.setattr(few_labels, "PAGE", tmp_path / "page.md")
    with pytest.raises(SystemExit):
        few_labels.main(["--report", "--output_dir", str(tmp_path)])
    assert not (tmp_path / "page.md").exists()


def test_fixmatch_asks_the_strong_view_what_the_weak_view_is_sure_of():
    """A guess below the threshold that teaches, or a gradient into the guess, is another method under this name."""
    weak = torch.tensor([[math.log(0.96), math.log(0.04)], [math.log(0.9), math.log(0.1)]], requires_grad=True)
    strong = torch.tensor([[0.0, math.log(3.0)], [5.0, 0.0]], requires_grad=True)
    loss = other_controls.fixmatch_loss(weak, strong)
    assert loss.item() == pytest.approx(math.log(4.0) / 2)
    loss.backward()
    assert weak.grad is None
    assert strong.grad[0].tolist() == pytest.approx([-0.375, 0.375])
    assert strong.grad[1].tolist() == [0.0, 0.0]
