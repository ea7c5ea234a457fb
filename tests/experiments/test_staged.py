"""A recipe in stages: from new heads to a closing table, and again from where it stopped."""

import json

import numpy as np
from recipe_run import argv, main
from safetensors.torch import load_file


def test_a_recipe_adapts_teaches_and_chooses(place, tmp_path, capsys):
    """A run that measures one set of weights and leaves another in the peer's folder."""
    words = argv(place, tmp_path, "--label_alignment", "new_head", "--max_labelled_samples", "12")
    # Nobody says who teaches.
    del words[words.index("--teacher_rule") : words.index("--teacher_rule") + 2]
    assert main(words) == 0
    arms = json.loads((tmp_path / "stages" / "arms.json").read_text())
    assert [arm["name"] for arm in arms] == ["adapted", "control", "self", "taught", "mutual"]
    facts = json.loads((tmp_path / "stages" / "stages.json").read_text())["facts"]
    for name in ("vit", "cnx"):
        what, alpha = facts["kept"][name]["what"], facts["kept"][name]["alpha"]
        if what != "start" and alpha == 1.0:
            stage = {"adapted": "adapt", "mutual": f"way-{facts['way']}"}.get(what, what)
            kept, trained = (
                load_file(one / "model.safetensors") for one in (tmp_path / name, tmp_path / "stages" / stage / name)
            )
            assert all(np.array_equal(kept[key], trained[key]) for key in kept)
    results = (tmp_path / "results.json").read_text()
    arms_file = (tmp_path / "stages" / "arms.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*words, "--resume_from_checkpoint"]) == 0
    assert (tmp_path / "stages" / "arms.json").stat().st_mtime_ns == arms_file
    assert json.loads(results)["peers"] == json.loads((tmp_path / "results.json").read_text())["peers"]
    shown = json.loads((tmp_path / "results.json").read_text())
    assert list(shown["peers"]["vit"]["arms"]) == ["start", "adapted", "control", "self", "taught", "mutual"]
    assert shown["kept"]["vit"][0]["what"] == facts["kept"]["vit"]["what"]
    assert shown["labelled_share"] == facts["labelled_share"]
    printed = capsys.readouterr().out
    assert "Δ of kept against best control" in printed
    assert " keep what the others taught" in printed or " keeps what the others taught" in printed
    card = (tmp_path / "vit" / "README.md").read_text()
    assert "These weights are " in card
