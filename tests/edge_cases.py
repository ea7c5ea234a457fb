"""Wrong inputs through the real entry points, one row each: started once, imported once, a fork per row.

How to add a row: put it into the table of the file in `tests/edges/` that it belongs to, or into a new file there:

    ROWS = [
        Row("batch size 0", but(RECIPE, "--per_device_train_batch_size", "0"), says="train_batch_size must be"),
        Row("a label beyond the classes", RECIPE, says="row 3", make=write_odd_rows),  # make(folder) prepares
        Row("no such run", ["hf-mutual-kd", "report", "nowhere"], says="nowhere"),
        Row("the same from Python", ["python", "from hf_mutual_kd import …"], says="…", code=1),
    ]

    @pytest.mark.parametrize("row", ROWS, ids=str)
    def test_odd_numbers_are_refused(row, entry):
        \"\"\"What they would do in silence.\"\"\"
        entry.check(row)

`words` are a recipe's name (a file of `recipes/`), `hf-mutual-kd` or `python` (then its program), and what follows.
In them `{place}` is a folder with the tiny peers `vit`, `cnn`, `cnx` and `data` (train, validation, test; image,
label) that no row may change, `{run}` a copy of a finished run of `vit` and `cnx` with a checkpoint, `{stopped}` one
that was stopped after it, and `{here}` the row's own folder, which is also where it starts. A row holds when the exit
code is `code`, stderr says each of `says`, there is no traceback (of a Python program: it ends with our error), and
everything in `{here}` is as it was before: names, bytes, links. Rows that may write say `writes=True`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import write_place

FAST = [
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "8",
    "--save_strategy",
    "steps",
    "--save_steps",
    "1",
    "--eval_strategy",
    "no",
    "--load_best_model_at_end",
    "false",
    "--control",
    "false",
    "--use_cpu",
    "--lr_scheduler_type",
    "constant",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
    "--pre_flight",
    "false",
]
START = ["vit_classify", "--peers", "vit={place}/vit", "cnx={place}/cnx", "--dataset", "{place}/data", *FAST]
RECIPE = [*START, "--output_dir", "{here}/out"]
"""Two steps of two peers on the tiny rows; runs as it is, into a folder that is not there yet."""


def but(words: Sequence[str], *changes: str) -> list[str]:
    """A command with options put in the place of those of the same name: `but(RECIPE, "--max_steps", "4")`."""
    given, changed = _by_option(words), _by_option(changes)
    return [word for option in (given | changed).values() for word in option]


def _by_option(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    option = ""
    for word in words:
        option = word if word.startswith("--") else option
        found.setdefault(option, []).append(word)
    return found


RESUME = but(RECIPE, "--output_dir", "{stopped}", "--resume_from_checkpoint", "true", "--max_steps", "4")
"""Two further steps of the run that was stopped."""


@dataclass(frozen=True)
class Row:
    """One wrong input: what is started, and how it must end. See the top of this file."""

    name: str
    words: Sequence[str]
    says: str | Sequence[str] = ()
    code: int = 2
    make: Callable[[Path], None] | None = None
    writes: bool = False
    stdout: str = "{here}.stdout"
    encoding: str = "utf-8"
    file_size: int = 0
    env: dict[str, str] = field(default_factory=dict)
    timeout: float = 60

    def __str__(self) -> str:
        return self.name


@dataclass
class Ended:
    """How a row ended."""

    code: int | None
    out: str
    err: str
    here: Path


class Entry:
    """The process that forks, and the folders that rows share."""

    def __init__(self, place: Path):
        self.place = place
        self.finished: Path | None = None
        self.seconds: list[float] = []
        tests = Path(__file__).parent
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        env["PYTHONPATH"] = str(tests.parent)
        self._process = subprocess.Popen(
            [sys.executable, str(tests / "edge_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tests.parent,
            env=env,
        )
        assert self._ask(None) == "ready"

    def _ask(self, job):
        if job is not None:
            print(json.dumps(job), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, row: Row, here: Path) -> Ended:
        """Start a row in its folder."""
        here.mkdir(exist_ok=True)
        names = {"{place}": self.place, "{here}": here, "{run}": here / "run", "{stopped}": here / "stopped"}
        filled = [_filled(word, names) for word in row.words]
        out, err = _filled(row.stdout, names), f"{here}.stderr"
        answer = self._ask(
            {
                "words": filled,
                "folder": str(here),
                "stdout": out,
                "stderr": err,
                "env": row.env,
                "encoding": row.encoding,
                "file_size": row.file_size,
                "timeout": row.timeout,
            }
        )
        self.seconds.append(answer["seconds"])
        said = Path(out).read_text(encoding=row.encoding, errors="replace") if Path(out).is_file() else ""
        return Ended(answer["code"], said, Path(err).read_text(errors="replace"), here)

    def check(self, row: Row, here: Path) -> Ended:
        """Start a row and hold it to what it says."""
        here.mkdir()
        self.copy_runs(row, here)
        if row.make is not None:
            row.make(here)
        before = snapshot(here)
        ended = self.run(row, here)
        assert ended.code == row.code, f"ended with {ended.code}:\n{ended.err[-3000:]}"
        for text in [row.says] if isinstance(row.says, str) else row.says:
            assert text in ended.err, ended.err[-3000:]
        if row.words[0] == "python" and row.code:
            assert "hf_mutual_kd.errors." in ended.err.splitlines()[-1], ended.err[-3000:]
        else:
            assert "Traceback" not in ended.err, ended.err[-3000:]
        if not row.writes:
            assert snapshot(here) == before, "something was written, changed or deleted"
        return ended

    def copy_runs(self, row: Row, here: Path) -> None:
        """Put the runs there that a row names."""
        for name in ("run", "stopped"):
            if any(f"{{{name}}}" in word for word in row.words):
                self.copy_finished(here / name)
        if (here / "stopped").is_dir():
            (here / "stopped" / "summary.json").unlink()
            (here / "stopped" / "results.json").unlink()

    def copy_finished(self, to: Path) -> None:
        """A copy of the finished run, made when the first row asks for it."""
        if self.finished is None:
            here = self.place.parent / "finished"
            ended = self.run(Row("", RECIPE), here)
            assert ended.code == 0, ended.err[-3000:]
            self.finished = here / "out"
        shutil.copytree(self.finished, to, symlinks=True)


def _filled(word: str, names: dict[str, Path]) -> str:
    for name, path in names.items():
        word = word.replace(name, str(path))
    return word


def snapshot(folder: Path) -> dict[str, object]:
    """Everything in a folder: names, bytes, links."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.fixture(scope="session")
def entry_point(tmp_path_factory):
    """The process that forks; one for all rows."""
    place = write_place(tmp_path_factory.mktemp("edges") / "place", train=24, validation=6, test=6)
    entry = Entry(place)
    _ENTRIES.append(entry)
    yield entry
    entry.close()


@pytest.fixture
def entry(entry_point, tmp_path):
    """`entry.check(row)`: the row in a folder of its own; `entry.run(row)` only starts it."""
    return BoundEntry(entry_point, tmp_path / "here")


@dataclass
class BoundEntry:
    """[`Entry`] with a row's folder."""

    point: Entry
    here: Path

    def check(self, row: Row) -> Ended:
        return self.point.check(row, self.here)

    def run(self, row: Row) -> Ended:
        """Start a row; the first in a folder finds the runs there that it names."""
        if not self.here.exists():
            self.here.mkdir()
            self.point.copy_runs(row, self.here)
        return self.point.run(row, self.here)


_ENTRIES: list[Entry] = []


def pytest_terminal_summary(terminalreporter):
    """How many rows there were, and what one takes."""
    seconds = [one for entry in _ENTRIES for one in entry.seconds]
    if seconds:
        mean = sum(seconds) / len(seconds)
        terminalreporter.write_line(f"edges: {len(seconds)} starts of real entry points, {mean:.2f} s each")
