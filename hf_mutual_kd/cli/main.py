"""The command `hf-mutual-kd`: a table of commands, each with its options and a function that runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from .._version import __version__
from ..config.recipe import parse_options
from ..config.values import nearest
from ..errors import ConfigError
from ..experiments.launch import WAYS, train
from ..experiments.program import run_command
from .compare import CompareOptions, run_compare
from .export import ExportOptions, run_export
from .push import CardOptions, PushOptions, run_card, run_push
from .report import ReportOptions, run_report
from .saliency import EvaluateOptions, PredictOptions, run_evaluate, run_predict
from .score import ScoreOptions, of_task, run_score
from .scout import ScoutOptions, run_scout
from .space import SpaceOptions, run_space

PROGRAM = "hf-mutual-kd"


class Command(NamedTuple):
    """One command: its line of help, the dataclass of its options, or what says it for the words, what runs it.

    A command whose options are `None` takes the words.
    """

    help: str
    options: type | Callable[[Sequence[str]], type] | None
    run: Callable[[Any], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (`list[str]`, *optional*): the words after the program's name; the process' own when unset.

    Returns:
        `int`: 0; 2 for an error of the user's, 130 when interrupted, 143 when terminated, with one line on stderr.

    Raises:
        `SystemExit`: with code 0 after `--help` and `--version`.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> None:
        name, rest = find_command(words)
        command = COMMANDS[name]
        if command.options is None:
            command.run(rest)
        else:
            options = command.options if isinstance(command.options, type) else command.options(rest)
            command.run(parse_options(rest, options, program=f"{PROGRAM} {name}", description=command.help))

    return run_command(run)


def find_command(words: list[str]) -> tuple[str, list[str]]:
    """The name of a command, which may be two words, and the words after it; shows the table where it is asked for.

    Raises:
        [`ConfigError`]: there is no such command; with the nearest.
        `SystemExit`: with code 0 after `--help` and `--version`.
    """
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, words[count:]
    first = words[0] if words else ""
    among = {name: command for name, command in COMMANDS.items() if name.startswith(f"{first} ")}
    asked = [word for word in words[: 2 if among else 1] if word.startswith("-")]
    if asked and asked[0] in ("--help", "-h", "--help-all", "--version"):
        print(__version__ if asked[0] == "--version" else describe_commands(among or COMMANDS))
        raise SystemExit(0)
    known, given = list(among or COMMANDS), " ".join(words[: 2 if among else 1])
    problem = f"unknown command {given}{nearest(given, known)}" if given else "no command was given"
    raise ConfigError(f"{problem}; there are {', '.join(known)}")


def describe_commands(commands: dict[str, Command]) -> str:
    """The table of commands."""
    width = max(map(len, commands))
    lines = [f"usage: {PROGRAM} COMMAND [--option value …]", "", "Pretrained models that teach each other.", ""]
    lines += [f"  {name:<{width}}  {command.help}" for name, command in commands.items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help shows the options of a command."])


@dataclass
class NoOptions:
    """Of a command that has none."""


def run_env(options: NoOptions) -> None:
    """Print what a bug report needs."""
    from ..reports.terminal import render
    from .environment import environment_table

    print(render(("what", "value"), environment_table()))


COMMANDS = {
    **{f"train {task}": Command(way.help, None, partial(train, task)) for task, way in WAYS.items()},
    "scout": Command("Find models that complement mine.", partial(of_task, ScoutOptions), run_scout),
    "score": Command(
        "Score peers on a data set once, for training to read.", partial(of_task, ScoreOptions), run_score
    ),
    "compare": Command("Compare settings over seeds, each with its control.", CompareOptions, run_compare),
    "push": Command("Push the peers of a run to the Hub, one repository each.", PushOptions, run_push),
    "card": Command("Rebuild the model cards of a run from its records.", CardOptions, run_card),
    "report": Command("Rebuild the report of a run, or compare runs.", ReportOptions, run_report),
    "export": Command("Write peers as ONNX, checked against PyTorch.", ExportOptions, run_export),
    "space": Command("Make a Space in which visitors ask the peers.", SpaceOptions, run_space),
    "saliency predict": Command("Predict where people look in a video.", PredictOptions, run_predict),
    "saliency evaluate": Command(
        "Score folders of saliency maps against a ground truth.", EvaluateOptions, run_evaluate
    ),
    "env": Command("Print versions, devices and settings for a bug report.", NoOptions, run_env),
}
