"""The app of a Space in a real Chromium, started as on the Hub: samples, uploads, hostile files, phone and dark."""

import json

import pytest
from chromium import chromium, needs_chromium
from conftest import LABELS
from PIL import Image
from space_app import least_contrast, pick, result, serving, show, upload, wait_for
from space_run import write_classifiers
from test_space import bomb

from hf_mutual_kd import write_space

pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The app of a made-up run."""
    folder = write_space(write_classifiers(tmp_path_factory.mktemp("run")), samples=4).folder
    with serving(folder, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_a_sample_is_answered_at_once_and_nothing_is_fetched(browser, address):
    """A page that waits for fonts or scripts from elsewhere, or that says nothing of who teaches."""
    show(browser, address)
    browser.get_log("performance")
    pick(browser, 1)
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
    pick(browser, 0)
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
    pick(browser, 0)
    wait_for(lambda: "margin of the truth" in result(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(browser, address, scheme):
    """A page that scrolls sideways, or grey on grey: WCAG asks for a contrast of 4.5."""
    show(browser, address, 390, scheme)
    pick(browser, 1)
    wait_for(lambda: "margin of the truth" in result(browser))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert least_contrast(browser, "p", ".soft", "h4", "tbody td", "tbody b", ".bars .label") >= 4.5
