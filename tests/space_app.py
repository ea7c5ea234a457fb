"""The app of a Space as the Hub starts it, and what a visitor does with it in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from chromium import look

PATIENCE_S = 60


def wait_for(what, patience_s=PATIENCE_S):
    """What `what()` returns once that is true."""
    ends = time.monotonic() + patience_s
    while time.monotonic() < ends:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@contextmanager
def serving(folder: Path, place: Path):
    """The app's address, started in its folder where this package cannot be imported; `place` is for its files."""
    blocked = place / "blocked"
    blocked.mkdir()
    (blocked / "hf_mutual_kd.py").write_text("raise ImportError('a Space has no hf_mutual_kd')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_ANALYTICS_ENABLED"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"GRADIO_TEMP_DIR": str(place / "uploads"), "PYTHONPATH": str(blocked)}
    with (place / "log").open("w") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/"

    def answers():
        assert app.poll() is None, (place / "log").read_text()
        try:
            return urllib.request.urlopen(url, timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, 120)
        yield url
    finally:
        app.terminate()
        app.wait(20)


def show(browser, address, width=1280, scheme="light"):
    """Load the page, with its samples."""
    look(browser, address, width, 1000, prefers_color_scheme=scheme)
    wait_for(lambda: browser.find_elements("css selector", "#samples .gallery-item"))


def pick(browser, number):
    """Click on a sample."""
    browser.find_elements("css selector", "#samples .gallery-item")[number].click()


def result(browser):
    """The text of the answer."""
    found = browser.find_elements("css selector", "#result")
    return found[0].text if found else ""


def upload(browser, path, clear="emove"):
    """Give a file as a visitor does, in the place of what was there; `clear` is in the label of that one's button."""
    button = f"#upload button[aria-label*={clear}]"
    for old in browser.find_elements("css selector", button):
        old.click()
    wait_for(lambda: browser.find_elements("css selector", "#upload input[type=file]"))[0].send_keys(str(path))
    wait_for(lambda: browser.find_elements("css selector", button))
    browser.find_element("css selector", "#ask").click()


CONTRAST = """
  const light = (colour) => { const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
    const share = part / 255; return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
  const ground = light(getComputedStyle(document.querySelector('#result section')).backgroundColor);
  return arguments[0].map((where) => {
    const ink = light(getComputedStyle(document.querySelector(`#result section ${where}`)).color);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); });
"""


def least_contrast(browser, *selectors):
    """The lowest contrast of words in the answer's sections with their ground; WCAG asks for 4.5."""
    return min(browser.execute_script(CONTRAST, selectors))
