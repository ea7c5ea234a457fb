"""Make the embedded Parquet files of descriptions of Debian's packages: `python recipes/embedded_text/make_data.py`.

It reads the index of Debian 12 (bookworm, the point release 12.15) from a mirror and checks it by its hash. Running it
twice with the same libraries gives byte-identical files.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value

from hf_mutual_kd import whole

HERE = Path(__file__).resolve().parent
MIRROR = "http://deb.debian.org/debian/dists/bookworm/main"
FILES = {
    "binary-amd64/Packages.xz": "b838d31986207780a596ce3e8010f90f",
    "i18n/Translation-en.xz": "a07bf5b346e9b6e7304d662cc359c0c4",
}
"""Of `main`, with the MD5 sums that `InRelease` of 11 July 2026 names."""

SECTIONS = ("admin", "devel", "games", "graphics", "math", "net", "science", "sound", "text", "x11")
"""The classes: sections that say what a package is for, not in which language it is written."""
LONGEST = 320
"""Characters of a text; the rest is left out at the end of a word."""

SEED = 20251022
SPLITS = {"train": 2_000, "validation": 500, "test": 1_500}
"""Rows of these sections; all others are `pretrain`, and so are those of all other sections, without a label."""
NO_LABEL = -1
FEATURES = Features(
    {"text": Value("string"), "label": ClassLabel(names=list(SECTIONS)), "package": Value("string")},
)


def fetch(name: str, mirror: str) -> str:
    """One file of the index, unpacked.

    Raises:
        `ValueError`: it is not the file that the embedded data was made of.
    """
    with urllib.request.urlopen(f"{mirror}/{name}", timeout=300) as stream:
        content = stream.read()
    found = hashlib.md5(content).hexdigest()
    if found != FILES[name]:
        raise ValueError(f"{mirror}/{name} has the MD5 sum {found}, expected {FILES[name]}: the release went on")
    return lzma.decompress(content).decode()


def stanzas(index: str) -> Iterator[dict[str, str]]:
    """The paragraphs of an index, lines that go on joined by line ends."""
    for part in index.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in part.splitlines():
            if line.startswith(" "):
                fields[key] += "\n" + line[1:]
            else:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
        if fields:
            yield fields


def text_of(description: str) -> str:
    """A description in one line: the synopsis, a full stop, and the long description as far as [`LONGEST`] goes."""
    synopsis, *rest = description.split("\n")
    words = f"{synopsis.rstrip('.')}. {' '.join(line for line in rest if line.strip() != '.')}".split()
    text = " ".join(words)
    return text if len(text) <= LONGEST else text[: LONGEST + 1].rsplit(" ", 1)[0]


def read_rows(mirror: str) -> list[dict[str, str]]:
    """One row for each source package: of its packages the one that is called as it, else the shortest name."""
    said = {one["Description-md5"]: one["Description-en"] for one in stanzas(fetch("i18n/Translation-en.xz", mirror))}
    chosen: dict[str, dict[str, str]] = {}
    for one in stanzas(fetch("binary-amd64/Packages.xz", mirror)):
        source = one.get("Source", one["Package"]).split()[0]
        if source not in chosen or rank(source, one["Package"]) < rank(source, chosen[source]["Package"]):
            chosen[source] = one
    rows, known = [], set()
    for source in sorted(chosen):
        one = chosen[source]
        text = text_of(said.get(one["Description-md5"], ""))
        if text not in known:
            known.add(text)
            rows.append({"text": text, "label": one["Section"], "package": one["Package"]})
    return rows


def rank(source: str, package: str) -> tuple[bool, int, str]:
    """The lowest is the package that stands for its source."""
    return package != source, len(package), package


def main(arguments: list[str] | None = None) -> int:
    """Fetch, choose, split and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mirror", default=MIRROR, help="URL of the folder main/ of bookworm")
    parser.add_argument("--output", type=Path, default=HERE / "debian_sections", help="folder of the files")
    parser.add_argument("--pretrain", type=Path, help="also write the rows for make_peers.py, to this file")
    options = parser.parse_args(arguments)
    found = read_rows(options.mirror)
    rows = [row for row in found if row["label"] in SECTIONS]
    others = [row for row in found if row["label"] not in SECTIONS]
    order = np.random.Generator(np.random.PCG64(SEED)).permutation(len(rows))
    begin = 0
    options.output.mkdir(parents=True, exist_ok=True)
    for split, count in {**SPLITS, "pretrain": len(rows) - sum(SPLITS.values())}.items():
        part = [rows[place] for place in order[begin : begin + count]]
        begin += count
        part += others if split == "pretrain" else []
        columns = {name: [row[name] for row in part] for name in ("text", "package")}
        labels = [SECTIONS.index(row["label"]) if row["label"] in SECTIONS else NO_LABEL for row in part]
        target = options.output / f"{split}.parquet" if split != "pretrain" else options.pretrain
        if target is not None:
            table = Dataset.from_dict({**columns, "label": labels}, features=FEATURES).with_format("arrow")[:]
            with whole(target) as place:
                pq.write_table(table, place, compression="zstd", compression_level=19)
        shares = np.bincount([label for label in labels if label >= 0], minlength=len(SECTIONS))
        print(f"{split:<10} {count:>5} rows, labels {dict(zip(SECTIONS, shares.tolist(), strict=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
