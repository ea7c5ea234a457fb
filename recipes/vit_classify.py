"""`accelerate launch recipes/vit_classify.py …` is `hf-mutual-kd train image-classification …`.

Without options it trains the embedded default: three small specialists on a part of Fashion-MNIST; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("image-classification", sys.argv[1:]))
