"""The script that proves a GPU, on tiny models without one."""

import json

import check


def test_every_check_that_needs_no_gpu_holds(tmp_path):
    """A script that breaks on the day when somebody has a GPU for ten minutes."""
    assert check.main(["--reduced", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert [name for name, one in found.items() if one["outcome"] == "holds"] == [
        "precision",
        "broken_peer",
        "step_time",
        "dense",
        "fused",
        "checkpointing",
    ]
    assert {one["why"] for one in found.values() if one["outcome"] == "not run"} <= {
        "needs a GPU",
        "bitsandbytes is not installed",
        "deepspeed is not installed",
    }
    assert "| dense | holds |" in (tmp_path / "gpu.md").read_text()
