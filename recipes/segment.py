"""`accelerate launch recipes/segment.py …` is `hf-mutual-kd train semantic-segmentation …`.

Without options it trains the embedded default: two peers on satellite images; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("semantic-segmentation", sys.argv[1:]))
