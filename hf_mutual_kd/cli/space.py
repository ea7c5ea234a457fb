"""`hf-mutual-kd space`: a Gradio app of a run's peers, as a folder, on this machine or on the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError


def add_space_options(parser: argparse.ArgumentParser) -> None:
    """Options of `space`."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a run (a recipe's output_dir)")
    parser.add_argument("--out", metavar="FOLDER", help="where the Space is written; space/ in the run when left out")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these peers")
    parser.add_argument(
        "--peers_from", metavar="NAMESPACE", help="fetch trained peers from where `push` put them, instead of copies"
    )
    parser.add_argument("--dataset", help="where the run's data set is now, for the samples")
    parser.add_argument("--samples", type=int, default=12, help="test samples to pick from (12); 0 for none")
    parser.add_argument("--local", action="store_true", help="start the app here")
    parser.add_argument("--push", metavar="NAMESPACE/NAME", help="push it as a Space; the app itself starts there")
    parser.add_argument("--private", action="store_true", default=None, help="create a Space that only you see")


def run_space(options: argparse.Namespace) -> None:
    """Write the folder, push it or start it where that was asked for."""
    if options.samples < 0:
        raise ConfigError(f"samples must be 0 or more, got {options.samples}")
    from ..hub.space.push import check_space_name, find_pushed, push_space, serve

    if options.push:
        check_space_name(options.push)
    from ..hub.space.build import write_space
    from ..reports.terminal import size_of

    pushed = find_pushed(options.run_dir, options.peers_from, options.peers) if options.peers_from else None
    made = write_space(
        options.run_dir,
        options.out,
        peers=options.peers,
        pushed=pushed,
        dataset=options.dataset,
        samples=options.samples,
    )
    print(f"{made.folder}: {size_of(made.bytes)}")
    for note in made.notes:
        print(f"note: {note}")
    if options.push:
        print(push_space(made.folder, options.push, private=options.private))
    if options.local:
        serve(made.folder)
    elif not options.push:
        print(f"start it with: python {Path(made.folder) / 'app.py'}")
