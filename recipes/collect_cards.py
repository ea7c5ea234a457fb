"""Keeps the cards of finished runs with the records they were made from: `collect_cards.py model_cards RUN_DIR …`.

`model_cards/NAME/PEER/` holds a peer's card as it would lie on the Hub, `model_cards/NAME/*.json*` the records, NAME
being the name of the run's folder; the tests rebuild the cards from the records and compare them whole.
"""

import shutil
import sys
from pathlib import Path

from hf_mutual_kd import EXAMPLES, markdown, read_run, write_cards, write_text

RECORDS = ("cohort.json", "results.json", "history.jsonl", "summary.json", "roles.parquet")
CARD = ("README.md", "config.json", "figures")


def main(kept: str, *run_dirs: str) -> int:
    for run_dir in run_dirs:
        for card in collect(Path(run_dir), Path(kept) / Path(run_dir).name):
            print(card)
    return 0


def collect(run: Path, target: Path) -> list[Path]:
    """Build the cards of a run and put them with its records into `target`, which is replaced."""
    cards = write_cards(run)
    shutil.rmtree(target, ignore_errors=True)
    for record in (path for name in RECORDS for path in sorted(run.rglob(name))):
        place = target / record.relative_to(run)
        # In a control nobody teaches.
        has_no_roles = record.suffix == ".parquet" and record.parent.name == "control"
        if not has_no_roles and not any(part.startswith("checkpoint-") for part in place.parts):
            copy(record, place)
    record = read_run(run)
    if record.results is not None:
        write_text(target / "results.md", markdown(record.results, record.words))
    for figure, place in (
        (run / "report" / "results.png", target / "results.png"),
        (run / EXAMPLES, target / EXAMPLES),
    ):
        if figure.is_file():
            copy(figure, place)
    for name in cards:
        for part in CARD:
            copy(run / name / part, target / name / part)
    return [target / name / "README.md" for name in cards]


def copy(source: Path, place: Path) -> None:
    """Copy a file or a folder, with the folders it lies in."""
    place.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, place)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: collect_cards.py model_cards RUN_DIR …")
    sys.exit(main(*sys.argv[1:]))
