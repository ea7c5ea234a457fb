"""`hf-mutual-kd space`: a Gradio app of a run's peers, as a folder, on this machine or on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config.fields import option
from ..config.rules import NOT_NEGATIVE


@dataclass
class SpaceOptions:
    """Options of `space`."""

    run_dir: str = option(
        "run", "", "Folder of a run (a training's output_dir).", positional=True, required=True, metavar="RUN_DIR"
    )
    peers: list[str] | None = option("peers", None, "Only these peers.", metavar="NAME …")
    peers_from: str | None = option(
        "peers", None, "Fetch trained peers from where `push` put them, instead of copies.", metavar="NAMESPACE"
    )
    dataset: str | None = option("data", None, "Where the run's data set is now, for the samples.", place=True)
    samples: int = option("data", 12, "Test samples to pick from; 0 for none.", rule=NOT_NEGATIVE)
    out: str | None = option("output", None, "Where the Space is written; space/ in the run when left out.")
    local: bool = option("run", False, "Start the app here.")
    push: str | None = option(
        "hub", None, "Push it as a Space; the app itself starts there.", metavar="NAMESPACE/NAME"
    )
    private: bool | None = option("hub", None, "Create a Space that only you see.")


def run_space(options: SpaceOptions) -> None:
    """Write the folder, push it or start it where that was asked for."""
    from ..hub.space.push import check_space_name, find_pushed, push_space, serve

    if options.push:
        check_space_name(options.push)
    from ..hub.space.build import write_space
    from ..reports.terminal import size_of

    peers = find_pushed(options.run_dir, options.peers_from, options.peers) if options.peers_from else options.peers
    made = write_space(options.run_dir, options.out, peers=peers, dataset=options.dataset, samples=options.samples)
    print(f"{made.folder}: {size_of(made.bytes)}")
    for note in made.notes:
        print(f"note: {note}")
    if options.push:
        print(push_space(made.folder, options.push, private=options.private))
    if options.local:
        serve(made.folder)
    elif not options.push:
        print(f"start it with: python {Path(made.folder) / 'app.py'}")
