"""The report in a real browser: it needs no network, it complains of nothing, and what people touch does what it says.

Skipped without the package playwright, or without Chromium or Chrome; ``NEURALCODEC_BROWSER`` names one that is not on the path.
"""

import os
import shutil
from fractions import Fraction

import numpy as np
import pytest

from neuralcodec.datasets.audio import Sound
from neuralcodec.datasets.video import Clip
from neuralcodec.eval import report, samples
from neuralcodec.eval.curves import compare
from neuralcodec.eval.modalities import MODALITIES
from neuralcodec.eval.results import Curve, Dataset, File, Item, Point, Results
from neuralcodec.eval.samples import audio, image, video

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
ITEMS = ("one", "two")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    program = os.environ.get("NEURALCODEC_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip("needs Chromium or Chrome")
    with playwright.sync_playwright() as session:
        running = session.chromium.launch(executable_path=program, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the report of some signals. After the test: no complaint on the console, no request but for the page itself."""
    said, asked = [], []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("data:", "blob:")) else None)

    def open_page(modality: str, module, signals):
        path = tmp_path / "report.html"
        versions = [
            {"name": name, "rate": rate, "quality": {}, **module.embedded(signal, signals[0])}
            for name, rate, signal in zip(("original", "rough", "fine"), (None, 0.26, 0.25), signals)
        ]
        report.save(made_up(modality), [{"item": item, "rate": 0.25, "versions": versions} for item in ITEMS], path)
        page.goto(path.as_uri())
        return page

    yield open_page
    assert asked == [(tmp_path / "report.html").as_uri()]
    assert said == []
    page.close()


def made_up(modality: str) -> Results:
    """Two measured curves and a published one of other items."""
    kind = MODALITIES[modality]()
    metric = next(iter(kind.metrics.TITLES))

    def curve(name: str, quality: float, **options) -> Curve:
        points = []
        for i in range(5):
            files = [File(item, 1000, 0.1 * 2**i, {}, {metric: quality + i + lift}, 0.1, 0.01) for item, lift in zip(ITEMS, (-0.5, 0.5))]
            points.append(Point(float(i), 0.1 * 2**i, {metric: quality + i}, 0.1, 0.01, files=[] if options else files))
        return Curve(name, options.get("kind", "measured"), "made up", points, options.get("protocol", "here"))

    curves = [curve("rough", 1), curve("fine", 2), curve("other", 3, kind="published", protocol="elsewhere")]
    items = [Item(name, name, {}) for name in ITEMS]
    dataset = Dataset("made up", modality, kind.rate_unit, items, "here")
    return Results(dataset, kind.definitions, kind.metrics.TITLES, {"torch": "0"}, curves, compare(curves, curves[0], [metric]))


def pictures() -> list[np.ndarray]:
    """The original and two versions, told apart by their colour."""
    y, x = np.mgrid[:96, :160]
    grey = (128 + 60 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)
    return [np.stack([grey // (1 + (i == 1)), grey // (1 + (i == 2)), grey], -1) for i in range(3)]


def dots(page) -> int:
    return page.locator("#plot circle").count()


def test_pointing_at_a_curve_tells_its_numbers(opened):
    page = opened("image", image, pictures())
    assert not page.locator("#tip").is_visible()
    page.locator("#plot .curve[data-name=fine] circle").nth(2).hover()
    assert page.locator("#tip").is_visible()
    assert page.locator("#tip").text_content().splitlines()[:2] == ["fine, setting 2", "0.4000 bpp"]
    assert page.locator("#plot .curve.dim").count() == 2
    page.mouse.move(2, 2)
    assert not page.locator("#tip").is_visible()


def test_codecs_are_switched_off_and_on(opened):
    page = opened("image", image, pictures())
    assert dots(page) == 15
    page.get_by_text("rough", exact=True).first.click()
    assert dots(page) == 10 and page.locator("#plot .curve[data-name=rough]").count() == 0
    page.locator("#none").click()
    assert dots(page) == 0
    page.locator("#all").click()
    assert dots(page) == 15


def test_rates_are_drawn_on_either_scale_and_for_each_item(opened):
    page = opened("image", image, pictures())

    def lefts() -> list[float]:
        return [float(each.get_attribute("cx")) for each in page.locator("#plot .curve[data-name=fine] circle").all()]

    logarithmic = np.diff(lefts())
    assert logarithmic == pytest.approx(np.full(4, logarithmic[0]), rel=1e-3)
    page.locator("#log").uncheck()
    assert np.diff(lefts())[1:] / np.diff(lefts())[:-1] == pytest.approx(np.full(3, 2), rel=1e-3)
    page.locator("#item").select_option("two")
    assert page.locator("#plot .curve").count() == 2, "published curves say nothing about single items"


def test_published_curves_say_of_what_they_are(opened):
    page = opened("image", image, pictures())
    assert page.get_by_text("other (published, of elsewhere)").first.is_visible()
    assert "not comparable" in page.locator("#rates tr", has_text="other").text_content()
    assert page.locator("#plot .curve", has=page.locator("polyline[stroke-dasharray='6 4']")).get_attribute("data-name").startswith("other")


def border(page) -> float:
    return float(page.locator("#stage").get_attribute("data-border"))


def colour_at(page, share: float) -> list[int]:
    code = "(c, s) => [...c.getContext('2d').getImageData(Math.floor(c.width * s), Math.floor(c.height / 4), 1, 1).data].slice(0, 3)"
    return page.locator("#stage").evaluate(f"(canvas) => ({code})(canvas, {share})")


def test_the_border_between_two_pictures_follows_the_pointer(opened):
    page = opened("image", image, pictures())
    page.wait_for_selector("#stage[data-border]")
    stage = page.locator("#stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    assert border(page) == pytest.approx(0.25, abs=0.01)
    red, green, _ = colour_at(page, 0.5)
    assert green < red, "right of the border is the second version"
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40)
    red, green, _ = colour_at(page, 0.5)
    assert red < green, "left of it the first"
    stage.focus()
    page.keyboard.press("ArrowLeft")
    assert border(page) == pytest.approx(0.73, abs=0.01)
    assert "rough" in page.locator("#left-caption").text_content() and "0.260 bpp" in page.locator("#left-caption").text_content()


def test_pictures_are_enlarged_up_to_eight_times_about_the_pointer(opened):
    page = opened("image", image, pictures())
    page.wait_for_selector("#stage[data-border]")
    page.locator("#stage").hover(position={"x": 100, "y": 100})
    page.mouse.wheel(0, -240)
    page.wait_for_function("document.getElementById('stage').dataset.zoom === '2.000'")
    for _ in range(5):
        page.locator("#in").click()
    assert page.locator("#zoom").text_content() == "8×"
    before = colour_at(page, 0.25)
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 150)
    page.mouse.up()
    assert colour_at(page, 0.25) != before, "dragging moves an enlarged picture"
    for _ in range(4):
        page.locator("#out").click()
    assert page.locator("#zoom").text_content() == "1×"
    page.locator("#mode").select_option("beside")
    assert page.locator("#stage").evaluate("canvas => canvas.clientHeight") < box["height"] * 0.6


def test_clips_play_and_are_searched_by_frame(opened):
    x = np.arange(96)[None].repeat(64, 0)
    luma = np.stack([(40 + 2 * x + 8 * t) % 220 for t in range(12)]).astype(np.uint8)
    chroma = np.full((12, 32, 48), 128, np.uint8)
    page = opened("video", video, [Clip(luma // (i + 1), chroma, chroma, Fraction(12)) for i in range(3)])
    page.wait_for_selector("#stage[data-frame='0']")
    page.locator("#seek").fill("5")
    assert page.locator("#stage").get_attribute("data-frame") == "5" and "frame 6 of 12" in page.locator("#clock").text_content()
    page.locator("#play").click()
    page.wait_for_selector("#stage[data-frame='8']", timeout=10_000)
    page.locator("#play").click()
    assert page.locator("#play").text_content() == "play"


def test_sounds_are_switched_at_the_same_position(opened):
    t = np.arange(32000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)[None]
    page = opened("audio", audio, [Sound(tone / (i + 1), 16000) for i in range(3)])
    assert page.locator(".voice").count() == 3
    assert page.locator(".voice.on b").text_content().endswith("original")
    shape = page.locator(".spectrogram img").first.evaluate(
        "async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }"
    )
    assert 300 < shape[0] <= audio.COLUMNS + 1 and shape[1] == audio.BANDS
    page.locator("#play").click()
    page.wait_for_function("parseFloat(document.getElementById('clock').textContent) >= 0.2")
    page.keyboard.press("3")
    assert page.locator("#voices").get_attribute("data-heard") == "fine"
    assert page.locator("#play").text_content() == "pause", "it plays on"
    page.locator("#play").click()
    stopped = page.locator("#clock").text_content()
    page.locator(".voice").nth(1).locator(".spectrogram").click(position={"x": 5, "y": 20})
    assert page.locator("#voices").get_attribute("data-heard") == "rough"
    assert page.locator("#clock").text_content() != stopped


def test_a_report_without_samples_has_no_place_for_them(opened, tmp_path, browser):
    path = tmp_path / "report.html"
    page = opened("image", image, pictures())
    report.save(made_up("image"), [], path)
    other = browser.new_page()
    errors = []
    other.on("pageerror", lambda error: errors.append(str(error)))
    other.goto(path.as_uri())
    assert other.locator("#samples").count() == 0 and not errors
    assert page.locator("#samples").count() == 1
    other.close()


def test_rates_to_look_at_are_low_in_the_range_that_all_share():
    assert samples.shared_rate([[0.1, 1.0], [0.2, 2.0]]) == pytest.approx(0.2 * 5**samples.SHARE)
    assert samples.shared_rate([[1, 2], [8, 9]]) == pytest.approx(4)
