"""Text classifiers with few labels and with all: `python recipes/text_evidence.py` writes docs/TEXT.md.

Both are the embedded default of `hf-mutual-kd train text-classification`, with three seeds and four times its epochs:
after two the peers have hardly begun to learn from each other. Runs that have ended are
not repeated; one that was stopped goes on, and `--only_page` shows the seeds that it has finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hf_mutual_kd import launch, markdown, read_run, write_text

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 8
SETTINGS = {
    "few": ("20 labels of each section", []),
    "all": ("all 1,000 training rows with their label", ["--labels_per_class", "null"]),
}
PAGE = """# Text classification: what was found

Made by `python recipes/text_evidence.py`, not edited by hand. Three small specialists, each with its own tokenizer, on
descriptions of Debian's packages (`recipes/embedded_text/README.md`): 1,000 training rows, 500 validation rows that
choose, 1,500 test rows that only measure; {epochs} epochs, where the embedded default has 2. `start` is a peer as it
is loaded; `control` learns from the labels alone; `self-trained`, where there are rows without a label, is taught by
its own frozen copy; `mutual` is where its peers led it; `kept` is what validation rows favour of all these. The
learning rate is the same in all and was not tuned. Accuracy in %, Δ in points, in brackets 95 % intervals over test
rows and seeds. `mean of all` is the peers' ensemble.

{sections}
"""


def main() -> int:
    """Train what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "text_evidence", help="of the runs")
    parser.add_argument("--only_page", action="store_true", help="train nothing")
    options, more = parser.parse_known_args()
    sections = []
    for name, (title, changed) in SETTINGS.items():
        folder = options.folder / name
        if not (folder / "results.json").is_file() and not options.only_page:
            goes_on = ["--resume_from_checkpoint", "true"] if (folder / "cohort.json").is_file() else []
            words = ["--config", "embedded_text", "--num_train_epochs", str(EPOCHS), *changed]
            words += ["--output_dir", str(folder), *goes_on, *more]
            if code := launch("text-classification", words):
                return code
        run = read_run(folder)
        if run.results is None:
            sys.exit(f"{folder} holds no results")
        seeds = f"{len(run.results.seeds)} seeds" if len(run.results.seeds) > 1 else "one seed"
        sections.append(f"## With {title}, {seeds}, {run.results.steps} steps\n\n{markdown(run.results, run.words)}")
    write_text(ROOT / "docs" / "TEXT.md", PAGE.format(epochs=EPOCHS, sections="\n".join(sections)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
