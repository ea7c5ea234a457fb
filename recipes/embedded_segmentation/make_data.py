"""Make the embedded land-cover tiles: `python recipes/embedded_segmentation/make_data.py [--cache FOLDER]`.

It is `recipes/land_cover.py` with the settings below; that script says where picture and classes come from. Running it
twice with the same libraries gives byte-identical files.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import land_cover  # noqa: E402 - recipes are scripts, importable only once their folder is on the path

SETTINGS = ["--size", "64", "--stride", "32", "--quality", "92"]


def main(arguments: list[str] | None = None) -> int:
    """Write the four splits; what is given on the command line comes after, and so before, the settings."""
    given = sys.argv[1:] if arguments is None else arguments
    return land_cover.main(["--output", str(HERE / "land_cover"), *SETTINGS, *given])


if __name__ == "__main__":
    sys.exit(main())
