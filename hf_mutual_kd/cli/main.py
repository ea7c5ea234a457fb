"""The command `hf-mutual-kd`: a table of commands, each with its options and a function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .._version import __version__
from ..experiments.program import run_command
from ..reports.terminal import size_of
from .compare import add_compare_options, run_compare
from .export import add_export_options, run_export
from .report import add_report_options, run_report
from .saliency import add_saliency_options, run_saliency
from .score import add_score_options, run_score
from .scout import add_scout_options, run_scout
from .space import add_space_options, run_space

if TYPE_CHECKING:
    from ..hub.push import PushedPeer, PushReport


class Command(NamedTuple):
    """One command: its line of help, what adds its options, what runs it."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (`list[str]`, *optional*): the words after the program's name; the process' own when unset.

    Returns:
        `int`: 0; 2 for an error of the user's, 130 when interrupted, 143 when terminated, with one line on stderr.
    """
    parser = argparse.ArgumentParser("hf-mutual-kd", description="Pretrained models that teach each other.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_options(commands.add_parser(name, help=command.help, description=command.help))
    options = parser.parse_args(argv)
    return run_command(lambda: COMMANDS[options.command].run(options))


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Options of `push`."""
    add_run_options(parser)
    parser.add_argument("--namespace", help="user or organisation; yours when left out")
    parser.add_argument("--private", action="store_true", default=None, help="create repositories that only you see")
    parser.add_argument("--dry_run", action="store_true", help="show what would be pushed and send nothing")
    parser.add_argument("--no_collection", action="store_true", help="do not list the peers in a collection")
    parser.add_argument("--name_template", help="repository names, from {peer}, {dataset} and {task}")
    parser.add_argument("--revision", help="branch to push to, created where it is missing; main when left out")
    parser.add_argument("--commit_message", help="title of the commits")
    parser.add_argument("--deadline_s", type=float, help="give up after that many seconds in all")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The run folder and the choice of peers."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a run (a recipe's output_dir)")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these peers")


def run_push(options: argparse.Namespace) -> None:
    """Push a run and say what became of every peer."""
    from ..hub.names import NAME_TEMPLATE
    from ..hub.push import push_run

    report = push_run(
        options.run_dir,
        namespace=options.namespace,
        private=options.private,
        collection=not options.no_collection,
        peers=options.peers,
        name_template=options.name_template or NAME_TEMPLATE,
        revision=options.revision,
        commit_message=options.commit_message,
        dry_run=options.dry_run,
        deadline_s=options.deadline_s,
    )
    print(describe_plan(report) if options.dry_run else describe_push(report))


def run_card(options: argparse.Namespace) -> None:
    """Rebuild the cards from the run's records."""
    from ..hub.names import choose_peers, read_run
    from ..reports.model_card import write_cards

    peers = choose_peers(read_run(options.run_dir), options.peers)
    for name, path in write_cards(Path(options.run_dir), peers).items():
        print(f"{name}: {path}")


def run_env(options: argparse.Namespace) -> None:
    """Print what a bug report needs."""
    from ..reports.terminal import render
    from .environment import describe_environment

    print(render(("what", "value"), describe_environment()))


def describe_push(report: PushReport) -> str:
    """The table after a push, and the collection's address or why there is none."""
    from ..reports.terminal import render

    rows = [
        (
            one.peer,
            one.url,
            (one.commit or "")[:12] if one.changed else "unchanged",
            str(len(one.files)),
            size_of(one.bytes),
        )
        for one in report.peers
    ]
    lines = [render(("peer", "repository", "commit", "files", "size"), rows)]
    lines += [f"note: {one.note}" for one in report.peers if one.note]
    if report.collection:
        lines.append(f"collection: {report.collection}")
    if report.collection_note:
        lines.append(report.collection_note)
    return "\n".join(lines)


def describe_plan(report: PushReport) -> str:
    """What a dry run shows: every file with its size, and the card's metadata."""
    return "\n\n".join([*map(_describe_planned, report.peers), "dry run: nothing was sent"])


def _describe_planned(one: PushedPeer) -> str:
    import yaml

    from ..reports.terminal import render

    lines = [f"{one.peer} → {one.url} ({len(one.files)} files, {size_of(one.bytes)})"]
    lines.append(render(("file", "size"), [(name, size_of(size)) for name, size in one.files.items()]))
    lines += [f"stays here: {name} ({reason})" for name, reason in one.left_out.items()]
    metadata = yaml.safe_dump(one.metadata, sort_keys=False, allow_unicode=True).rstrip() if one.metadata else "none"
    lines.append("metadata of the card:\n" + "\n".join(f"  {line}" for line in metadata.splitlines()))
    return "\n".join(lines)


COMMANDS = {
    "scout": Command("Find models that complement mine.", add_scout_options, run_scout),
    "score": Command("Score peers on a data set once, for training to read.", add_score_options, run_score),
    "saliency": Command("Video saliency: score folders of maps.", add_saliency_options, run_saliency),
    "compare": Command("Compare settings over seeds, each with its control.", add_compare_options, run_compare),
    "push": Command("Push the peers of a run to the Hub, one repository each.", add_push_options, run_push),
    "card": Command("Rebuild the model cards of a run from its records.", add_run_options, run_card),
    "report": Command("Rebuild the report of a run, or compare runs.", add_report_options, run_report),
    "export": Command("Write peers as ONNX, checked against PyTorch.", add_export_options, run_export),
    "space": Command("Make a Space in which visitors ask the peers.", add_space_options, run_space),
    "env": Command("Print versions, devices and settings for a bug report.", lambda parser: None, run_env),
}
