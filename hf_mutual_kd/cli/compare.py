"""`hf-mutual-kd compare`: train the settings of a suite and compare them with their controls."""

from __future__ import annotations

import argparse


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument("--config", required=True, metavar="SUITE.yaml", help="the suite, see recipes/suites")
    parser.add_argument("--processes", type=int, default=1, metavar="K", help="arms to train at a time, 1 by default")
    parser.add_argument("--output_dir", metavar="DIR", help="where arms and tables go; the suite's when left out")
    parser.add_argument("--only", metavar="ARM", help="train this one arm and write no table")


def run_compare(options: argparse.Namespace) -> None:
    """Train what has not finished and print the table."""
    from ..experiments.run_suite import run_one, run_suite

    if options.only:
        run_one(options.config, options.only, options.output_dir)
    else:
        print(run_suite(options.config, options.processes, options.output_dir))
