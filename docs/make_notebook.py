"""Makes docs/tutorial.ipynb of docs/tutorial.md: `make_notebook.py` keeps what was printed, `--run` prints it anew."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
NOTEBOOK = DOCS / "tutorial.ipynb"
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


def code_hash(cells: list[dict]) -> str:
    """What tells the code that made outputs from another."""
    code = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def notebook(printed: dict[str, str], made_by: str) -> str:
    """The whole notebook.

    Args:
        printed (`dict[str, str]`): what each cell said, by its id.
        made_by (`str`): [`code_hash`] of the code that said it.
    """
    made = cells((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    for one in made:
        if text := printed.get(one["id"]):
            lines = text.splitlines(keepends=True)
            one["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}]
    found = {
        "cells": made,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "outputs_made_by": made_by,
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def said(found: dict) -> dict[str, str]:
    """What each cell of a notebook printed, by its id; no progress bars."""
    return {
        one["id"]: "".join("".join(out["text"]) for out in one["outputs"] if out.get("name") == "stdout")
        for one in found["cells"]
        if one["cell_type"] == "code"
    }


def run() -> dict[str, str]:
    """Run the notebook from the repository's root; trains for some minutes."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.reads(notebook({}, ""), as_version=4)
    NotebookClient(made, timeout=3600, resources={"metadata": {"path": str(DOCS.parent)}}).execute()
    return said(made)


if __name__ == "__main__":
    if "--run" in sys.argv[1:]:
        text = notebook(run(), code_hash(cells((DOCS / "tutorial.md").read_text(encoding="utf-8"))))
    else:
        kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
        text = notebook(said(kept), kept["metadata"].get("outputs_made_by", ""))
    NOTEBOOK.write_text(text, encoding="utf-8")
