"""Video saliency models that teach each other: `accelerate launch recipes/video_saliency.py [--key value …]`.

Without options it runs the embedded default (recipes/configs/embedded_saliency.yaml): peers of different encoders on
synthetic gaze, no network needed. Other data: --dataset dhf1k:FOLDER, hollywood2:FOLDER, ucf:FOLDER, avimos:FOLDER, or
a data set of videos and fixations on the Hub.
"""

import sys
from pathlib import Path

from hf_mutual_kd import launch

EMBEDDED = Path(__file__).parent / "configs" / "embedded_saliency.yaml"

if __name__ == "__main__":
    sys.exit(launch("video-saliency", "recipes/video_saliency.py", sys.argv[1:], EMBEDDED, __doc__ or ""))
