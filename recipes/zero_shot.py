"""`accelerate launch recipes/zero_shot.py …` is `hf-mutual-kd train image-classification --config zero_shot …`.

Two small image-text models that read the names of the classes, and a classifier, without any label; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("image-classification", ["--config", "zero_shot", *sys.argv[1:]]))
