"""The page as a real browser shows it: on a phone and on a desk, on a light ground and on a dark one."""

import shutil

import pytest

from dro_trl.recipes.studies.report import write_report

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def show(browser, path, width, scheme="light"):
    """Open a page in a window of a width, in CSS pixels, with the images of a colour scheme."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.resolve().as_uri())


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light")])
def test_the_report_is_whole_and_fits(browser, make_study, tmp_path, width, scheme):
    long = {"a method with a name of many words, longer than a phone is wide": ({"kl_coef": 0.1}, 0.7)}
    study, rows, questions = make_study(tmp_path, methods={"dro": ({}, 0.9), **long}, num_questions=12)
    page = write_report(study, rows, questions, "dro-trl compare --config a/very/long/path/to/a/recipe.yaml")
    show(browser, page, width, scheme)
    images = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width, i.alt])"
    )
    assert len(images) == 13
    for complete, natural, shown, alt in images:
        assert complete
        assert natural > 300
        assert 250 < shown <= width
        assert alt
    # A phone zooms out of a page that is too wide, so that its window is wider, too.
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # The dark ground has images of its own.
    sources = browser.execute_script("return [...document.images].map(i => i.currentSrc === i.src)")
    assert set(sources) == {scheme == "light"}
    # Wide tables scroll in their own boxes.
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(b => [b.clientWidth, getComputedStyle(b).overflowX])"
    )
    assert boxes
    assert all(0 < inner <= width and overflow == "auto" for inner, overflow in boxes)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.title == "Methods compared"


def test_the_check_itself_sees_a_page_that_is_too_wide_and_an_image_that_is_missing(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        '<meta name="viewport" content="width=device-width"><img src="gone.png"><p style="width: 900px">x</p>'
    )
    show(browser, path, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") > 390
    assert browser.execute_script("return document.images[0].naturalWidth") == 0
    assert any(entry["level"] == "SEVERE" for entry in browser.get_log("browser"))
