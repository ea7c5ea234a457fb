"""The app of a Space in a real Chromium, started as on the Hub: samples, uploads, hostile files, phone and dark."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from chromium import chromium, look, needs_chromium
from conftest import LABELS
from PIL import Image
from space_run import write_classifiers
from test_space import bomb

from hf_mutual_kd.space import write_space

pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
pytestmark = needs_chromium
PATIENCE_S = 60


def wait_for(what, patience_s=PATIENCE_S):
    """What `what()` returns once that is true."""
    ends = time.monotonic() + patience_s
    while time.monotonic() < ends:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app of a made-up run, started in its folder with nothing but what it brings."""
    folder = write_space(write_classifiers(tmp_path_factory.mktemp("run")), samples=4).folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_ANALYTICS_ENABLED"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads"))}
    with (folder.parent / "log").open("w") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/"

    def answers():
        assert app.poll() is None, (folder.parent / "log").read_text()
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def show(browser, address, width=1280, scheme="light"):
    look(browser, address, width, 1000, prefers_color_scheme=scheme)
    wait_for(lambda: browser.find_elements("css selector", "#samples .gallery-item"))


def result(browser):
    found = browser.find_elements("css selector", "#result")
    return found[0].text if found else ""


def upload(browser, path):
    """Give a file as a visitor does, in the place of what was there."""
    for old in browser.find_elements("css selector", "#upload button[aria-label*=emove]"):
        old.click()
    wait_for(lambda: browser.find_elements("css selector", "#upload input[type=file]"))[0].send_keys(str(path))
    wait_for(lambda: browser.find_elements("css selector", "#upload button[aria-label*=emove]"))
    browser.find_element("css selector", "#ask").click()


def test_a_sample_is_answered_at_once_and_nothing_is_fetched(browser, address):
    """A page that waits for fonts or scripts from elsewhere, or that says nothing of who teaches."""
    show(browser, address)
    browser.get_log("performance")
    browser.find_elements("css selector", "#samples .gallery-item")[1].click()
    wait_for(lambda: "Who would teach whom" in result(browser))
    said = result(browser)
    for words in ("would teach", "margin of the truth", "vit", "cnn", "before", "after", "without a classifier"):
        assert words in said
    assert browser.execute_script("return document.querySelector('#truth input').value") in LABELS
    show(browser, address)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    outside = [url for url in urls if not url.startswith((address, "data:", "blob:"))]
    assert urls
    assert not outside


def test_an_upload_is_answered_without_the_truth_of_the_sample_before(browser, address, tmp_path):
    """A truth that stays from the sample before would name a wrong teacher."""
    show(browser, address)
    browser.find_elements("css selector", "#samples .gallery-item")[0].click()
    wait_for(lambda: "margin of the truth" in result(browser))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.jpg")
    upload(browser, tmp_path / "red.jpg")
    wait_for(lambda: "being sure is not being right" in result(browser))
    assert not browser.find_elements("css selector", "#result td b")


@pytest.mark.parametrize(("name", "words"), [("text.png", "This file is no image"), ("bomb.png", "6,000 x 6,000")])
def test_hostile_files_get_a_message_and_the_app_goes_on(browser, address, tmp_path, name, words):
    """A visitor who sees "Error", or one file that ends the app for all."""
    show(browser, address)
    if name == "bomb.png":
        bomb(tmp_path / name, 6000)
    else:
        (tmp_path / name).write_text("I am no image")
    upload(browser, tmp_path / name)
    wait_for(lambda: words in result(browser))
    assert browser.find_element("css selector", "#result [role=alert]").is_displayed()
    browser.find_elements("css selector", "#samples .gallery-item")[0].click()
    wait_for(lambda: "margin of the truth" in result(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(browser, address, scheme):
    """A page that scrolls sideways, or grey on grey: WCAG asks for a contrast of 4.5."""
    show(browser, address, 390, scheme)
    browser.find_elements("css selector", "#samples .gallery-item")[1].click()
    wait_for(lambda: "margin of the truth" in result(browser))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    contrast = """
      const light = (colour) => { const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
        const share = part / 255; return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
      const ground = light(getComputedStyle(document.querySelector('#result section')).backgroundColor);
      return ['p', '.soft', 'h4', 'tbody td', 'tbody b', '.bars .label'].map((where) => {
        const ink = light(getComputedStyle(document.querySelector(`#result section ${where}`)).color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); });
    """
    assert min(browser.execute_script(contrast)) >= 4.5
