"""The app of a saliency Space in a real Chromium: a sample, an uploaded video, files that are none, a phone."""

import json

import pytest
from chromium import chromium, needs_chromium
from hostile_videos import scratched
from saliency_files import mp4
from space_app import least_contrast, pick, result, serving, show, upload, wait_for
from space_run import write_saliency

from hf_mutual_kd import write_space

pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = write_space(write_saliency(tmp_path_factory.mktemp("run"))).folder
    with serving(folder, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def images(browser):
    """Widths of the answer's images as they were decoded, 0 for a broken one."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#result img')].map((one) => one.naturalWidth)"
    )


def test_a_sample_shows_frames_truth_and_peers_and_nothing_is_fetched(browser, address):
    """A page that names no teacher, whose pictures or video are broken, or that waits for a player from elsewhere."""
    show(browser, address)
    browser.get_log("performance")
    pick(browser, 1)
    wait_for(lambda: result(browser).count("knows the truth best") == 6)
    said = result(browser)
    for words in ("Frame 4 of 20", "the truth", "CC − KLD", "convnext before: CC", "videomae after: CC", "The peers"):
        assert words in said
    assert images(browser) == [64] * 3 * (2 + 4)
    film = "const film = document.querySelector('#result video'); return film.readyState > 0 && film.duration"
    assert wait_for(lambda: browser.execute_script(film)) == pytest.approx(20 / 25, abs=0.1)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert not [url for url in urls if not url.startswith((address, "data:", "blob:"))]


def test_an_uploaded_video_is_answered_without_the_truth_of_the_sample_before(browser, address, tmp_path):
    """The sample's answer for a visitor's own video; a kind of video that no browser plays is one too."""
    show(browser, address)
    pick(browser, 0)
    wait_for(lambda: "knows the truth best" in result(browser))
    (tmp_path / "mine.avi").write_bytes(mp4(codec="mpeg4", kind="avi"))
    upload(browser, tmp_path / "mine.avi", clear="lear")
    wait_for(lambda: result(browser).count("agreeing is not being right") == 3)
    assert "would teach" not in result(browser)
    assert images(browser) == [64] * 3 * (1 + 4)
    assert not browser.find_elements("css selector", ".toast-wrap *")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("text.mp4", b"I am no video", "This file is no video"), ("broken.mp4", scratched(), "The video is damaged")],
)
def test_broken_videos_get_a_message_and_the_app_goes_on(browser, address, tmp_path, name, content, words):
    """A visitor who sees "Error", or one file that ends the app for all."""
    show(browser, address)
    (tmp_path / name).write_bytes(content)
    upload(browser, tmp_path / name, clear="lear")
    wait_for(lambda: words in result(browser))
    assert browser.find_element("css selector", "#result [role=alert]").is_displayed()
    pick(browser, 0)
    wait_for(lambda: "knows the truth best" in result(browser))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(browser, address, scheme):
    """A page that scrolls sideways, before above after instead of beside it, or grey on grey."""
    show(browser, address, 390, scheme)
    pick(browser, 1)
    wait_for(lambda: "knows the truth best" in result(browser))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    tops = [one.rect["y"] for one in browser.find_elements("css selector", "#result .beside img")]
    assert tops[::2] == tops[1::2]
    assert least_contrast(browser, "p", ".soft", "tbody td", "tbody b", "figcaption") >= 4.5
