"""Makes docs/tutorial.ipynb of docs/tutorial.md, without outputs: `python docs/make_notebook.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
SETUP = """# On Colab: give the address of the repository. Left empty, the notebook runs beside the repository's files.
REPOSITORY = ""
if REPOSITORY:
    %cd /content
    !git clone --depth 1 $REPOSITORY hf_mutual_kd_repository
    %cd hf_mutual_kd_repository
    %pip install --quiet ."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!http)[^)]*\)")


def cells(text: str) -> list[dict]:
    """Text and Python in their order; commands stay text, as a notebook need not run them."""
    found: list[tuple[str, str]] = []
    rest = 0
    for block in FENCE.finditer(text):
        if block[1] == "python":
            found += [("markdown", text[rest : block.start()]), ("code", block[2])]
            rest = block.end()
    found.append(("markdown", text[rest:]))
    found = [(kind, LINK.sub(r"\1", body) if kind == "markdown" else body) for kind, body in found]
    found.insert(1, ("code", SETUP))
    return [cell(kind, body.strip(), number) for number, (kind, body) in enumerate(found) if body.strip()]


def cell(kind: str, source: str, number: int) -> dict:
    """One cell of the format 4.5."""
    made = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def notebook() -> str:
    """The whole notebook."""
    made = {
        "cells": cells((DOCS / "tutorial.md").read_text(encoding="utf-8")),
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "tutorial.ipynb").write_text(notebook(), encoding="utf-8")
