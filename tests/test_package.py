"""The package as a whole: public names, a light import, and examples in docstrings that are true."""

import ast
import builtins
import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import hf_mutual_kd


def test_import_is_light():
    """`--help` that waits seconds for torch feels broken."""
    code = (
        "import sys, time; began = time.process_time();"
        "import hf_mutual_kd, hf_mutual_kd.config.options, hf_mutual_kd.errors;"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules);"
        "print(sorted(heavy), time.process_time() - began)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, seconds = result.stdout.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert float(seconds) < 0.3


def test_names_load_without_a_word_of_a_kernel_for_four_bits():
    """The first line that everybody reads says that something failed, of bases that they do not use."""
    code = (
        "from hf_mutual_kd import Cohort, MutualKDTrainer; import logging; print('bitsandbytes' in __import__('sys')"
    )
    code += ".modules, logging.getLogger('bitsandbytes.backends.cpu.ops').filters)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gemm_4bit" not in result.stderr
    assert result.stdout == "True []\n"


def test_public_names_are_there():
    """A name in `__all__` that cannot be imported fails only in a user's notebook."""
    assert sorted(hf_mutual_kd.__all__) == sorted(dir(hf_mutual_kd))
    for name in hf_mutual_kd.__all__:
        assert getattr(hf_mutual_kd, name) is not None
    assert {"Cohort", "MutualKDTrainer", "Objective", "DataError", "push_run", "__version__"} <= set(
        hf_mutual_kd.__all__
    )
    with pytest.raises(AttributeError, match="No hf_mutual_kd attribute Kohort"):
        hf_mutual_kd.Kohort  # noqa: B018


def test_readers_need_no_module_paths():
    """An example that imports from where something happens to lie breaks with the next move."""
    root = Path(__file__).parents[1]
    pages = [
        root / "README.md",
        *root.glob("docs/**/*.md"),
        *root.glob("recipes/**/*.py"),
        *root.glob("recipes/**/*.md"),
    ]
    deep = re.compile(r"^[ #]*(?:from|import) hf_mutual_kd\.", re.MULTILINE)
    assert len(pages) > 40
    assert [str(page) for page in pages if deep.search(page.read_text(encoding="utf-8"))] == []


OVERRIDDEN = {"MutualKDTrainer", "VideoSaliencyModel", "VideoSaliencyProcessor"}
"""Classes of transformers, whose signatures are not ours."""


def positional(function, bound):
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind in kinds][bound:]


def test_public_functions_take_two_arguments_by_place():
    """`Cohort(peers, task, names, "subset")`: whoever reads it must look up what each is, and none can be added."""
    found = {}
    for name in hf_mutual_kd.__all__:
        thing = getattr(hf_mutual_kd, name)
        if inspect.isfunction(thing):
            found[name] = positional(thing, bound=0)
        elif inspect.isclass(thing) and not (name in OVERRIDDEN or issubclass(thing, hf_mutual_kd.Task)):
            # The slots of a task are called by the package, and overridden by whoever writes one.
            own = {key: getattr(one, "__func__", one) for key, one in vars(thing).items()}
            methods = {key: one for key, one in own.items() if inspect.isfunction(one) and not key.startswith("_")}
            if not dataclasses.is_dataclass(thing) and "__init__" in own:
                methods |= {"__init__": own["__init__"]}
            found |= {f"{name}.{key}": positional(one, bound=1) for key, one in methods.items()}
    assert len(found) > 100
    assert {name: arguments for name, arguments in found.items() if len(arguments) > 2} == {}


def modules():
    names = [module.name for module in pkgutil.walk_packages(hf_mutual_kd.__path__, "hf_mutual_kd.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def documented():
    """Every public class and function with its docstring."""
    for module in modules():
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
                yield module, name, thing


def examples(text):
    """Runs of `>>>` lines, each with what is printed after it."""
    blocks, current = [], None
    for line in inspect.cleandoc(text).splitlines():
        if line.lstrip().startswith((">>> ", "... ")):
            if current is None or current[1]:
                current = ([], [])
                blocks.append(current)
            current[0].append(line.lstrip()[4:])
        elif current is not None and line.strip() and not line.strip().startswith("```"):
            current[1].append(line.strip())
        else:
            current = None
    return blocks


def numbers(text):
    return [float(value) for value in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def free_names(source, known):
    """Names that an example takes from nowhere: a data set, a cohort, the Hub."""
    tree = ast.parse(source)
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used - assigned - set(known) - set(dir(builtins))


OUTSIDE = ("from_pretrained", "load_splits", "MutualKDConfig(", "runs/", "https://", "python:", "/data/", ".mp4")
"""What needs the Hub, the working folder or fails on purpose."""


def test_public_docstrings_exist():
    """A public function without a word is one that nobody can use."""
    assert [f"{module.__name__}.{name}" for module, name, thing in documented() if not inspect.getdoc(thing)] == []


def test_docstring_examples_are_true():
    """An example with a wrong digit is copied into tests and papers."""
    ran = 0
    for module, name, thing in documented():
        if ".hub" in module.__name__:
            continue
        namespace = vars(hf_mutual_kd) | {"torch": torch, "np": np, "Image": PIL.Image} | vars(module)
        for lines, printed in examples(inspect.getdoc(thing) or ""):
            source = "\n".join(lines)
            if any(word in source for word in OUTSIDE) or free_names(source, namespace):
                break
            *before, last = ast.parse(source).body
            exec(compile(ast.Module(before, []), name, "exec"), namespace)
            if not isinstance(last, ast.Expr):
                exec(compile(ast.Module([last], []), name, "exec"), namespace)
                continue
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            if printed:
                with np.printoptions(precision=4):
                    assert numbers(repr(value)) == pytest.approx(numbers(" ".join(printed)), abs=6e-5), (
                        f"{module.__name__}.{name}: {source} gives {value!r}, the docstring says {printed}"
                    )
                ran += 1
    assert ran >= 15
