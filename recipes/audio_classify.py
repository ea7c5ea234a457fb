"""`accelerate launch recipes/audio_classify.py …` is `hf-mutual-kd train audio-classification …`.

Without options it trains the embedded default: three small specialists on synthetic sounds; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("audio-classification", sys.argv[1:]))
