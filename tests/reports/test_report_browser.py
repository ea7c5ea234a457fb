"""The report in a real Chromium: no error, filters, keyboard, phone and desktop width, light and dark."""

import pytest
from chromium import chromium, look, needs_chromium
from made_up_maps import MAP_TASKS, SAMPLES, write_map_run
from made_up_report import rows_of_test, write_report_run

from hf_mutual_kd import make_task, write_report

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium on the report of a made-up run."""
    run = write_report_run(tmp_path_factory.mktemp("browser") / "run")
    page = write_report(run, rows_of_test(), task=make_task("image-classification"))
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.page = page.as_uri()
        yield driver


@pytest.fixture
def page(browser):
    """The page, freshly loaded at desktop width in the light."""
    show(browser, 1280, "light")
    return browser


def show(browser, width, scheme):
    look(browser, browser.page, width, 900, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")


def shown_samples(page):
    """The flips and the class of every sample that can be seen."""
    return page.execute_script(
        "return [...document.querySelectorAll('.sample')].filter((one) => one.offsetParent)"
        ".map((one) => [one.dataset.flips, one.dataset.class])"
    )


def choose(page, name, value):
    page.execute_script(
        "const box = document.querySelector(`select[name=${arguments[0]}]`); box.value = arguments[1];"
        "box.dispatchEvent(new Event('input', { bubbles: true }))",
        name,
        value,
    )


def test_nothing_is_said_on_the_console_and_nothing_is_fetched(page):
    """A script that the page's own policy forbids, or a request that leaves the machine."""
    assert page.get_log("browser") == []
    fetched = [
        entry["message"] for entry in page.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in fetched if '"url":"http' in message]


def test_filters_leave_what_they_name(page):
    """A filter that hides nothing, everything, or flips of another peer."""
    everything = shown_samples(page)
    assert len(everything) == 60
    choose(page, "peer", "cnn")
    choose(page, "kind", "lost")
    lost = shown_samples(page)
    assert 0 < len(lost) < 60
    assert all("cnn:lost" in flips.split() for flips, _ in lost)
    choose(page, "class", "3")
    both = shown_samples(page)
    assert both == [one for one in lost if one[1] == "3"] != []
    assert page.find_element("css selector", "output").text == f"{len(both)} of 60 samples"
    choose(page, "kind", "learned")
    assert shown_samples(page) == []
    page.find_element("css selector", "button[type=reset]").click()
    page.execute_async_script("setTimeout(arguments[0], 50)")
    assert shown_samples(page) == everything


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_all_images_load(browser, width, scheme):
    """A page that scrolls sideways on a phone, or figures that are black on black."""
    show(browser, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    images = browser.execute_script(
        "return [...document.images].map((one) => [one.alt, one.complete && one.naturalWidth, one.currentSrc.length])"
    )
    assert all(alt and size for alt, size, _ in images)
    dark = browser.execute_script(
        "const one = document.querySelector('picture'); return one.querySelector('img').currentSrc === "
        "one.querySelector('source').srcset"
    )
    assert dark is (scheme == "dark")
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(14, 18, 24)" if scheme == "dark" else "rgb(244, 246, 249)")
    assert len(browser.get_screenshot_as_png()) > 10_000


def test_everything_is_reached_by_keyboard_and_shows_it(page):
    """A filter or a wide table that only a mouse reaches, or focus that cannot be seen."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    reached, outlines = [], set()
    for _ in range(200):
        ActionChains(page).send_keys(Keys.TAB).perform()
        now, outline = page.execute_script(
            "const one = document.activeElement;"
            "return [one.name || one.className || one.tagName, getComputedStyle(one).outlineStyle]"
        )
        if now == "BODY":
            break
        reached.append(now)
        outlines.add(outline)
    assert reached[0] == "skip"
    assert {"peer", "kind", "class", "scroll", "SUMMARY", "BUTTON", "PRE"} <= set(reached)
    assert outlines == {"solid"}


def test_text_is_readable_against_its_ground(browser):
    """Grey on grey: WCAG asks for a contrast of 4.5."""
    contrast = """
      const light = (colour) => { const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
        const share = part / 255; return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]; };
      const ground = light(getComputedStyle(document.querySelector('section')).backgroundColor);
      return ['section p', 'thead th', 'tbody td', 'summary', 'figcaption', '.said'].map((where) => {
        const ink = light(getComputedStyle(document.querySelector(where)).color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05); });
    """
    for scheme in ("light", "dark"):
        show(browser, 1280, scheme)
        assert min(browser.execute_script(contrast)) >= 4.5


@pytest.fixture(scope="module")
def map_pages(tmp_path_factory):
    """The pages of made-up runs of tasks with maps."""
    folder = tmp_path_factory.mktemp("maps")
    return {
        task: write_report(write_map_run(folder / task, task), task=make_task(task)).as_uri() for task in MAP_TASKS
    }


def shown_scenes(page, key):
    return page.execute_script(
        "return [...document.querySelectorAll('.scene')].filter((one) => one.offsetParent)"
        ".map((one) => one.dataset[arguments[0]])",
        key,
    )


@pytest.mark.parametrize("task", MAP_TASKS)
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_pages_with_maps_fit_and_say_nothing_on_the_console(browser, map_pages, task, width, scheme):
    """Maps that make a phone scroll sideways, that do not load, or that the page's own policy forbids."""
    browser.get_log("browser")
    look(browser, map_pages[task], width, 900, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    images = browser.execute_script(
        "return [...document.querySelectorAll('.scene img')]"
        ".map((one) => [one.alt, one.complete && one.naturalWidth, one.getBoundingClientRect().width])"
    )
    assert len(images) >= 6 * SAMPLES
    assert all(alt and size and shown > 50 for alt, size, shown in images)


@pytest.mark.parametrize(
    ("task", "key", "value", "left"),
    [
        ("semantic-segmentation", "class", "0", ["0 1", "0 1", "0 1", "0 1", "0 1"]),
        ("video-saliency", "video", "1", ["1", "1", "1"]),
    ],
)
def test_filters_of_maps_leave_what_they_name(browser, map_pages, task, key, value, left):
    """A filter that hides nothing, everything, or samples of another class, video or teacher."""
    look(browser, map_pages[task], 1280, 900, prefers_color_scheme="light", prefers_reduced_motion="reduce")
    first = browser.execute_script("return document.querySelector('select[name=peer]').options[1].value")
    assert len(shown_scenes(browser, "flips")) == SAMPLES
    choose(browser, "peer", first)
    choose(browser, "kind", "worse")
    assert shown_scenes(browser, "flips") == [f"{first}:worse"] * 3
    choose(browser, "kind", "")
    choose(browser, "teacher", "nobody")
    assert shown_scenes(browser, "teacher") == ["nobody"] * 2
    browser.find_element("css selector", "button[type=reset]").click()
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    choose(browser, key, value)
    assert shown_scenes(browser, key) == left
    assert browser.find_element("css selector", "output").text == f"{len(left)} of {SAMPLES} samples"


def test_charts_tell_their_values_and_hide_what_is_clicked(page):
    """A chart that is a picture after all, in another theme's colours, or that shows other numbers than the table."""
    page.execute_script("document.querySelector('#results').scrollIntoView()")
    page.execute_async_script("setTimeout(arguments[0], 300)")
    drawn = "document.querySelector('#results figure.drawn .plot')"
    assert page.execute_script(f"return getComputedStyle({drawn}.querySelector('.main-svg')).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert page.execute_script(f"return {drawn}.getAttribute('aria-label')").startswith("Difference to the control")
    page.execute_script(f"Plotly.Fx.hover({drawn}, [{{ curveNumber: 1, pointNumber: 0 }}])")
    page.execute_async_script("setTimeout(arguments[0], 300)")
    assert page.execute_script(f"return {drawn}.querySelector('.hoverlayer').textContent") == "vit, mean: 0.70"
    levels = "document.querySelectorAll('#results figure.drawn .plot')[1]"
    seen = f"return {levels}.querySelectorAll('.trace.scatter path.point').length"
    before = page.execute_script(seen)
    page.execute_script(f"Plotly.restyle({levels}, {{ visible: 'legendonly' }}, [1])")
    assert 0 < page.execute_script(seen) < before


def test_charts_follow_the_theme(browser):
    """Lines in the colours of the light on a dark ground, once the reader's evening begins."""
    show(browser, 1280, "light")
    ground = "return getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert browser.execute_script(ground) == "rgb(255, 255, 255)"
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    assert browser.execute_script(ground) == "rgb(23, 28, 36)"


def test_paper_and_browsers_without_scripts_show_pictures(browser):
    """Empty places on a printed page, or where scripts are forbidden."""
    show(browser, 1280, "light")
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    width = "return document.querySelector('#results figure img').getBoundingClientRect().width"
    assert browser.execute_script(width) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert browser.execute_script(width) > 300
    assert browser.execute_script("return document.querySelector('.plot').getBoundingClientRect().width") == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, 1280, "light")
        found = browser.execute_cdp_cmd("DOMSnapshot.captureSnapshot", {"computedStyles": []})["documents"][0]
        names, where = found["nodes"]["nodeName"], found["layout"]
        strings = browser.execute_cdp_cmd("DOMSnapshot.captureSnapshot", {"computedStyles": []})["strings"]
        images = [
            bounds[2]
            for node, bounds in zip(where["nodeIndex"], where["bounds"], strict=True)
            if strings[names[node]] == "IMG"
        ]
        assert len(images) > 9
        assert max(images) > 300
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_tables_sort_and_figures_enlarge(page):
    """A head that looks like a button and does nothing, or text that is sorted where numbers are."""
    by_number = (
        "const tables = [...document.querySelectorAll('table')];"
        "const table = tables.find((one) => one.caption.textContent.startsWith('Who taught,'));"
        "const place = table.rows[0].cells.length - 1, head = table.rows[0].cells[place];"
        "head.querySelector('button').click();"
        "const values = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[place].textContent));"
        "const first = values(), said = head.ariaSort; head.querySelector('button').click();"
        "return [first, said, values(), head.ariaSort]"
    )
    falling, said, rising, then = page.execute_script(by_number)
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert (said, then) == ("descending", "ascending")
    large = "document.querySelector('button.enlarge').click(); const one = document.querySelector('dialog');"
    assert page.execute_script(f"{large} return one.open && one.querySelector('img').naturalWidth > 300")
    page.execute_script("document.querySelector('dialog').close()")
