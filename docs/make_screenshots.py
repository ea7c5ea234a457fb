"""Makes docs/report.png: the page of the kept run, on a desk in the light and on a phone in the dark.

`python docs/make_screenshots.py` needs Chromium and chromedriver, as the tests of pages do.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from hf_mutual_kd import make_task, write_report

DOCS = Path(__file__).parent
RUN = DOCS.parent / "model_cards" / "vit_classify"
VIEWS = ((1280, "light"), (390, "dark"))
HEIGHT, GAP, COLORS = 1150, 24, 256


def main() -> int:
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from chromium import chromium, look

    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch) / "profile") as browser:
        page = write_report(RUN, out=Path(scratch) / "page", task=make_task("image-classification")).as_uri()
        pictures = []
        for width, scheme in VIEWS:
            look(browser, page, width, HEIGHT, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            browser.execute_async_script("setTimeout(arguments[0], 1500)")
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
            pictures.append(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
    both = Image.new("RGB", (sum(one.width for one in pictures) + GAP, HEIGHT), "white")
    both.paste(pictures[0], (0, 0))
    both.paste(pictures[1], (pictures[0].width + GAP, 0))
    both.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(DOCS / "report.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
