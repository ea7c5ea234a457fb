"""The page that says which tasks there are."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from hf_mutual_kd.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"\d[\d,]*")


def test_the_page_is_what_its_command_makes():
    """A task that no page names, a promise whose test is gone, or lines counted long ago (a tenth is let pass)."""
    spec = spec_from_file_location("make_tasks", ROOT / "docs" / "make_tasks.py")
    maker = module_from_spec(spec)
    sys.modules[spec.name] = maker  # where dataclasses look
    spec.loader.exec_module(maker)
    ours = {name for name, kind in TASKS.items() if kind.__module__.startswith("hf_mutual_kd.")}
    assert {kind.task for kind in maker.KINDS} == ours
    assert all(len(kind.tests) == len(maker.COLUMNS) for kind in maker.KINDS)
    written, made = maker.PAGE.read_text(encoding="utf-8"), maker.page()
    advice = "python docs/make_tasks.py makes the page anew"
    assert NUMBER.sub("", written) == NUMBER.sub("", made), advice
    counts = [[int(one.replace(",", "")) for one in NUMBER.findall(text)] for text in (written, made)]
    assert counts[0] == pytest.approx(counts[1], rel=0.1), advice
