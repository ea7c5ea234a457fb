"""Segmentation models from the Hub that teach each other: `accelerate launch recipes/segment.py [--key value …]`.

Without options it runs the embedded default (recipes/configs/embedded_segmentation.yaml): a per-pixel and a
query-based peer on satellite images of land cover, no network needed.
"""

import sys
from pathlib import Path

from hf_mutual_kd import launch

EMBEDDED = Path(__file__).parent / "configs" / "embedded_segmentation.yaml"

if __name__ == "__main__":
    sys.exit(launch("semantic-segmentation", "recipes/segment.py", sys.argv[1:], EMBEDDED, __doc__ or ""))
