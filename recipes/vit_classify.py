"""Image classifiers from the Hub that teach each other: `accelerate launch recipes/vit_classify.py [--key value …]`.

Without options it runs the embedded default (recipes/configs/embedded.yaml): three small specialists on a part of
Fashion-MNIST, no network needed.
"""

import sys
from pathlib import Path

from hf_mutual_kd import launch

EMBEDDED = Path(__file__).parent / "configs" / "embedded.yaml"

if __name__ == "__main__":
    sys.exit(launch("image-classification", "recipes/vit_classify.py", sys.argv[1:], EMBEDDED, __doc__ or ""))
