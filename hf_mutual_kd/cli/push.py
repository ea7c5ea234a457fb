"""`hf-mutual-kd push` and `card`: the peers of a run to the Hub, and their cards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.fields import option
from ..config.rules import POSITIVE
from ..reports.terminal import size_of

if TYPE_CHECKING:
    from ..hub.push import PushedPeer, PushReport


@dataclass
class CardOptions:
    """Options of `card`: the run folder and the choice of peers."""

    run_dir: str = option(
        "run", "", "Folder of a run (a training's output_dir).", positional=True, required=True, metavar="RUN_DIR"
    )
    peers: list[str] | None = option("peers", None, "Only these peers.", metavar="NAME …")


@dataclass
class PushOptions(CardOptions):
    """Options of `push`."""

    namespace: str | None = option("hub", None, "User or organisation; yours when left out.")
    private: bool | None = option("hub", None, "Create repositories that only you see.")
    dry_run: bool = option("hub", False, "Show what would be pushed and send nothing.")
    no_collection: bool = option("hub", False, "Do not list the peers in a collection.")
    name_template: str | None = option("hub", None, "Repository names, from {peer}, {dataset} and {task}.")
    revision: str | None = option("hub", None, "Branch to push to, created where it is missing; main when left out.")
    commit_message: str | None = option("hub", None, "Title of the commits.")
    deadline_s: float | None = option("hub", None, "Give up after that many seconds in all.", rule=POSITIVE)


def run_push(options: PushOptions) -> None:
    """Push a run and say what became of every peer."""
    from ..hub.calls import Patience
    from ..hub.names import NAME_TEMPLATE, PushTarget
    from ..hub.push import push_run

    report = push_run(
        options.run_dir,
        PushTarget(
            options.namespace,
            options.name_template or NAME_TEMPLATE,
            options.private,
            revision=options.revision,
            collection=not options.no_collection,
        ),
        peers=options.peers,
        commit_message=options.commit_message,
        dry_run=options.dry_run,
        patience=Patience(deadline_s=options.deadline_s),
    )
    print(plan_table(report) if options.dry_run else push_table(report))


def run_card(options: CardOptions) -> None:
    """Rebuild the cards from the run's records."""
    from ..hub.names import choose_peers
    from ..reports.model_card import write_cards
    from ..reports.run_record import read_run

    peers = choose_peers(read_run(options.run_dir), options.peers)
    for name, path in write_cards(Path(options.run_dir), peers).items():
        print(f"{name}: {path}")


def push_table(report: PushReport) -> str:
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


def plan_table(report: PushReport) -> str:
    """What a dry run shows: every file with its size, and the card's metadata."""
    return "\n\n".join([*map(_planned_line, report.peers), "dry run: nothing was sent"])


def _planned_line(one: PushedPeer) -> str:
    import yaml

    from ..reports.terminal import render

    lines = [f"{one.peer} → {one.url} ({len(one.files)} files, {size_of(one.bytes)})"]
    lines.append(render(("file", "size"), [(name, size_of(size)) for name, size in one.files.items()]))
    lines += [f"stays here: {name} ({reason})" for name, reason in one.left_out.items()]
    metadata = yaml.safe_dump(one.metadata, sort_keys=False, allow_unicode=True).rstrip() if one.metadata else "none"
    lines.append("metadata of the card:\n" + "\n".join(f"  {line}" for line in metadata.splitlines()))
    return "\n".join(lines)
