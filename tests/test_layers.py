"""Who may import whom, and how large a thing may be, where ruff and import-linter (pyproject.toml) cannot look."""

import ast
import re
from pathlib import Path

import pytest
from importlinter.api import read_configuration

import hf_mutual_kd

PACKAGE = Path(hf_mutual_kd.__file__).parent
COPIED = [
    *sorted((PACKAGE / "hub/space/app").glob("*.py")),
    *sorted((PACKAGE / "tasks/video_saliency/model").glob("*.py")),
]
"""Files that leave the package: into a Space, or beside the weights of a pushed model."""


def imported(path):
    """Modules that a file imports, those of its own folder as `"."` and a name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_every_task_is_kept_from_the_others():
    """A folder that the contract does not list may lean on another task's files, and nobody is told."""
    contracts = read_configuration(str(PACKAGE.parent / "pyproject.toml"))["contracts_options"]
    (listed,) = (one["modules"] for one in contracts if one["type"] == "independence")
    folders = [path.parent.name for path in sorted((PACKAGE / "tasks").glob("*/__init__.py"))]
    folders.remove("classification")  # what several of them share
    assert listed == [f"hf_mutual_kd.tasks.{name}" for name in folders]


@pytest.mark.parametrize("path", COPIED, ids=lambda path: path.name)
def test_what_is_copied_out_imports_nothing_of_the_package(path):
    """A pushed model or a Space would start here, where the package is installed, and nowhere else."""
    found = list(imported(path))
    assert [name for name in found if name.startswith("hf_mutual_kd")] == []
    assert [name for name in found if name.startswith("..")] == []


def test_a_folder_says_what_it_is_and_imports_nothing():
    """An import in a folder's `__init__` that loads torch for whoever wants one small module of it."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], path


MODULES = [*sorted(PACKAGE.rglob("*.py")), *sorted((PACKAGE.parent / "recipes").rglob("*.py"))]
MOST_LINES, LONGEST = 400, 60


def lines_of(function):
    """Lines of a function, without its docstring."""
    first = function.body[0]
    is_text = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - is_text * (first.end_lineno - first.lineno + 1)


def test_files_and_functions_stay_small():
    """A file that grows by ten lines with every change is soon one that nobody reads to its end."""
    texts = {path.relative_to(PACKAGE.parent): path.read_text(encoding="utf-8") for path in MODULES}
    assert len(texts) > 250
    assert {str(path): n for path, text in texts.items() if (n := len(text.splitlines())) > MOST_LINES} == {}
    functions = {
        f"{path}:{node.name}": lines_of(node)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > LONGEST} == {}


def test_the_map_leads_somewhere():
    """A map that names what has moved, or a folder that nobody told newcomers of, costs each of them an hour."""
    root = PACKAGE.parent
    text = (root / "AGENTS.md").read_text(encoding="utf-8")
    places = [line for line in text.partition("## Where things are")[2].partition("\nWords:")[0].splitlines() if line]
    named = [name for line in places for name in re.findall(r"`([\w./]+(?:/|\.py|\.md))`", line)]
    assert len(named) > 20
    inside = [PACKAGE, root, *(path for path in PACKAGE.rglob("*") if path.is_dir()), root / "docs"]
    assert [name for name in named if not any((folder / name).exists() for folder in inside)] == []
    folders = {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - set(named) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if "make_" in path.name], ids=lambda path: str(path))
def test_importing_a_script_leaves_the_environment_alone(path):
    """A script that binds threads when it is imported binds every process of the tests to one core."""
    statements = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Expr)]
    assert not [ast.unparse(node) for node in statements if "os.environ" in ast.unparse(node)]
