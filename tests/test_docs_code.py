"""Every block of Python and shell in README.md and docs/ runs, offline and on a few rows; what cannot says why."""

import json
import re
import runpy
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from hf_mutual_kd import TASKS
from hf_mutual_kd.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<kind>python|bash)\n(?P<code>.*?)^```$", re.M | re.S
)
NOT_RUN = 22
"""Blocks that cannot run here; another one is a decision."""

SHORTER = {
    '"google/vit-base-patch16-224"': '"recipes/embedded/peers/vit"',
    '"WinKawaks/vit-tiny-patch16-224"': '"recipes/embedded/peers/resnet"',
    'MutualKDConfig("runs/vit", ': 'MutualKDConfig("runs/vit", report_to="none", pre_flight=False, ',
    "num_train_epochs=2": "max_steps=2",
    "max_steps=60": "max_steps=2",
    "batch_size=128": "batch_size=16",
}
"""What differs between a page and its test in Python: peers that are here, and fewer steps."""
SHORTER_RUN = {
    "max_steps": "1",
    "seeds": "0",
    "max_eval_samples": "12",
    "per_device_train_batch_size": "8",
    "control": "false",
    "pre_flight": "false",
    "report_to": "none",
    "disable_tqdm": "true",
}
"""What is added to a command that trains where it does not say it itself."""
ROWS = {"train": 48, "validation": 16, "test": 16}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    kind: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, one["kind"], one["code"], one["reason"]) for one in FENCE.finditer(text)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The repository's root as the pages see it, with few rows and somewhere to write.

    A task that a page adds is unknown again to the tests after these.
    """
    known = dict(TASKS)
    folder = tmp_path_factory.mktemp("repository")
    data = folder / "recipes" / "embedded" / "fashion_mnist"
    data.mkdir(parents=True)
    for split, count in ROWS.items():
        table = pq.read_table(ROOT / "recipes" / "embedded" / "fashion_mnist" / f"{split}.parquet")
        pq.write_table(table.slice(0, count), data / f"{split}.parquet")
    (folder / "recipes" / "embedded_text").symlink_to(ROOT / "recipes" / "embedded_text")
    (data.parent / "peers").symlink_to(ROOT / "recipes" / "embedded" / "peers")
    (folder / "recipes" / "vit_classify.py").symlink_to(ROOT / "recipes" / "vit_classify.py")
    (folder / "runs" / "in1k").mkdir(parents=True)
    (folder / "runs" / "in1k" / "vit-t").symlink_to(ROOT / "recipes" / "embedded" / "peers" / "vit")
    yield folder
    TASKS.clear()
    TASKS.update(known)


@pytest.fixture
def rows(place, tmp_path):
    files = {split: str(place / "recipes/embedded/fashion_mnist" / f"{split}.parquet") for split in ROWS}
    return load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))


def run_python(block: Block, names: dict) -> None:
    code = block.code
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    exec(compile(code, str(block.page), "exec"), names)


def run_shell(block: Block, monkeypatch) -> None:
    """Each command in this process, as its program would run it; `accelerate launch` runs a script as Python does."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        added = [f"--{name}={value}" for name, value in SHORTER_RUN.items() if f"--{name}" not in words]
        if words[0] == "hf-mutual-kd":
            assert cli.main([*words[1:], *(added if words[1] == "train" else [])]) == 0, line
            continue
        script = next((at for at, word in enumerate(words) if word.endswith(".py")), None)
        assert words[:2] == ["accelerate", "launch"], (
            f"{block.page.name}: no way to run {line!r}; say why with 'not run'"
        )
        assert script is not None
        monkeypatch.setattr(sys, "argv", [*words[script:], *added])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(words[script], run_name="__main__")
        assert ended.value.code == 0, line


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_blocks_run_as_they_stand(page, place, rows, monkeypatch, capsys):
    """A page that shows a call which was renamed long ago."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MUTUAL_KD_EXAMPLES", str(place / "recipes"))
    names = {"train": rows["train"], "validation": rows["validation"], "test": rows["test"]}
    for block in blocks(page):
        if block.reason is None:
            run_python(block, names) if block.kind == "python" else run_shell(block, monkeypatch)


def test_what_is_not_run_is_counted():
    """Blocks that are switched off one by one until nothing is tested."""
    skipped = [block for page in PAGES for block in blocks(page) if block.reason is not None]
    assert len(skipped) == NOT_RUN, "\n".join(f"{block.page.name}: {block.reason}" for block in skipped)
    fences = sum(len(re.findall(r"^```(?:python|bash)$", page.read_text(encoding="utf-8"), re.M)) for page in PAGES)
    assert fences == sum(len(blocks(page)) for page in PAGES)


# The notebook


def notebook_maker():
    spec = spec_from_file_location("make_notebook", ROOT / "docs" / "make_notebook.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_tutorial():
    """A notebook that still shows last month's tutorial, or what another code printed.

    `python docs/make_notebook.py` brings in the text, with `--run` what the code prints.
    """
    text, maker = (ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"), notebook_maker()
    found = json.loads(text)
    cells, printed, made_by = found["cells"], maker.said(found), found["metadata"]["outputs_made_by"]
    assert text == maker.notebook(printed, made_by)
    assert made_by == maker.code_hash(cells), "the code has changed: python docs/make_notebook.py --run"
    for one in cells:
        if one["cell_type"] == "code" and "print(" in "".join(one["source"]):
            assert printed[one["id"]].strip()
    assert not re.search(r"/home/|/root/|/work/|/tmp/|hf_[A-Za-z0-9]{16}", "".join(printed.values()))
    code = [block.code.strip() for block in blocks(ROOT / "docs" / "tutorial.md") if block.kind == "python"]
    assert ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][1:] == code


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter(place, monkeypatch):
    """Cells that run as a script but not in a kernel."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.reads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"), as_version=4)
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(place)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "vit:" in printed
