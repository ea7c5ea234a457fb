"""The embedded sounds follow their law, and their peers are as their cards say."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset

from hf_mutual_kd import Cohort, read_sound

HERE = Path(__file__).parents[2] / "recipes" / "embedded_audio"


@pytest.fixture(scope="module")
def law():
    sys.path.insert(0, str(HERE))
    import make_data

    yield make_data
    sys.path.remove(str(HERE))
    sys.modules.pop("make_data")


def split(name):
    rows = Dataset.from_parquet(str(HERE / "synthetic_sounds" / f"{name}.parquet"))
    return rows.cast_column("audio", Audio(decode=False))


def test_sounds_are_made_by_the_law(law):
    """Files of another law than the one that is told, or one sound in two splits."""
    heard = []
    for place, (name, count) in enumerate(law.SPLITS.items()):
        rows, (waves, labels) = split(name), law.rows(count, [law.SEED, place])
        assert rows["label"][:] == labels.tolist()
        assert rows.features["label"].names == law.NAMES
        found = [read_sound(row["audio"]).wave for row in rows]
        assert all(np.array_equal(one, wave) for one, wave in zip(found, waves, strict=True))
        heard += [one.tobytes() for one in found]
    assert len(set(heard)) == len(heard)


def test_peers_are_as_their_cards_say():
    """A table of accuracies that nobody can repeat."""
    rows = split("validation")
    peers = {name: str(HERE / "peers" / name) for name in ("wav2vec2", "ast", "whisper")}
    found = Cohort.from_pretrained(peers, "audio-classification").predict(list(rows))
    page = (HERE / "README.md").read_text(encoding="utf-8")
    for name in peers:
        accuracy = 100 * (found[name].argmax(1).numpy() == np.array(rows["label"][:])).mean()
        card = (HERE / "peers" / name / "README.md").read_text(encoding="utf-8")
        assert float(re.search(r"split: ([\d.]+) %", card)[1]) == pytest.approx(accuracy, abs=1.7)
        row = next(line for line in page.splitlines() if line.startswith(f"| {name}"))
        assert float(row.split("|")[5].strip(" %")) == pytest.approx(accuracy, abs=1.7)
