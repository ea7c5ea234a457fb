"""Keeps the cards of a finished run with the records they were made from: `collect_cards.py RUN_DIR model_cards/NAME`.

`model_cards/NAME/PEER/` holds a peer's card as it would lie on the Hub, `model_cards/NAME/*.json*` the records;
the tests rebuild the cards from the records and compare them whole.
"""

import json
import shutil
import sys
from pathlib import Path

from hf_mutual_kd.model_card import write_cards
from hf_mutual_kd.results import markdown

RECORDS = ("cohort.json", "results.json", "history.jsonl", "summary.json", "roles.parquet")
CARD = ("README.md", "config.json", "figures")


def main(run_dir: str, kept: str) -> int:
    run, target = Path(run_dir), Path(kept)
    cards = write_cards(run)
    shutil.rmtree(target, ignore_errors=True)
    for record in (path for name in RECORDS for path in sorted(run.rglob(name))):
        place = target / record.relative_to(run)
        # In a control nobody teaches.
        has_no_roles = record.suffix == ".parquet" and record.parent.name == "control"
        if not has_no_roles and not any(part.startswith("checkpoint-") for part in place.parts):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record, place)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    (target / "results.md").write_text(markdown(results), encoding="utf-8")
    shutil.copyfile(run / "report" / "results.png", target / "results.png")
    for name in cards:
        for part in CARD:
            source = run / name / part
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            (target / name).mkdir(parents=True, exist_ok=True)
            copy(source, target / name / part)
        print(target / name / "README.md")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: collect_cards.py RUN_DIR model_cards/NAME")
    sys.exit(main(*sys.argv[1:]))
