"""`accelerate launch recipes/text_classify.py …` is `hf-mutual-kd train text-classification …`.

Without options it trains the embedded default: three small specialists on descriptions of packages; no network needed.
"""

import sys

from hf_mutual_kd import launch

if __name__ == "__main__":
    sys.exit(launch("text-classification", sys.argv[1:]))
