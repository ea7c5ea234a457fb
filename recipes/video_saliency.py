"""`accelerate launch recipes/video_saliency.py …` is `hf-mutual-kd train video-saliency …`.

Without options it trains the embedded default: peers of different encoders on synthetic gaze; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("video-saliency", sys.argv[1:]))
