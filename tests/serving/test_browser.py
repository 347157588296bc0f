"""A real browser asks, opens evidence and compares two runs: by the keyboard, wide and narrow.

apt-get install chromium-headless-shell && pip install playwright
pytest -m slow tests/serving/test_browser.py
"""

import shutil
from pathlib import Path

import pytest

from ralm_jax.serving import operations

pytestmark = pytest.mark.slow

# The one on PATH may be a wrapper that takes no arguments of ours.
PLACES = (
    "/usr/lib/chromium/chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
)
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in QUIET)]
MARKUP = "<script>document.title = 'taken'</script><b>bold</b>"
QUESTION = "Where was Edda Marrow born?"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for place in PLACES if (path := shutil.which(place))), None)
    if found is None:
        pytest.skip(f"no Chromium was found: {', '.join(Path(p).name for p in PLACES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def shown(browser, address, request):
    """The page in a window of some size, its server known; what it complains of, and whom it asks."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://{address.host}:{address.port}/")
    page.wait_for_selector("#served:has-text('passages')")
    yield page
    assert said == []
    own = (f"http://{address.host}:{address.port}/", "data:")
    assert asked and all(url.startswith(own) for url in asked)
    # A question is never part of an address that is asked for.
    assert not any("Edda" in url for url in asked)
    context.close()


@pytest.mark.parametrize(
    "shown", [(1280, "light"), (320, "light"), (1280, "dark")], indirect=True, ids=str
)
def test_a_question_by_the_keyboard_in_two_runs(shown, opened):
    shown.keyboard.type(QUESTION)
    shown.keyboard.press("Enter")
    shown.wait_for_selector(".column")
    columns = shown.query_selector_all(".column")
    assert [column.query_selector("h2").inner_text() for column in columns] == ["answers", "before"]
    (wanted,) = opened.answer([QUESTION])
    best = wanted.answers[0]
    assert columns[0].query_selector("strong").inner_text() == best.text
    assert columns[0].query_selector("mark").inner_text() == best.text
    assert (
        columns[0].query_selector("blockquote").inner_text()
        == opened.texts[best.row]["text"].decode()
    )
    assert "not fine-tuned to answer" in columns[1].inner_text()
    for column in columns:
        assert len(column.query_selector_all(".passages > li")) == 5
        assert " in " in column.query_selector(".elsewhere").inner_text()
    # The first neighbours, reached and opened by keys alone.
    while not shown.evaluate("document.activeElement.matches('summary')"):
        shown.keyboard.press("Tab")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("details li")
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [column.bounding_box() for column in columns]
    beside = boxes[1]["x"] > boxes[0]["x"]
    assert beside == (shown.viewport_size["width"] > 1000)


@pytest.mark.parametrize("shown", [(800, "light"), (800, "dark")], indirect=True, ids=str)
def test_texts_can_be_read_in_the_light_and_in_the_dark(shown):
    """Contrast of at least 4.5 to 1, as WCAG has it."""
    shown.keyboard.type(QUESTION)
    shown.keyboard.press("Enter")
    shown.wait_for_selector(".column")
    light = """selector => {
      const over = node => getComputedStyle(node).backgroundColor;
      const seen = node => over(node).endsWith(", 0)") ? seen(node.parentElement) : over(node);
      const level = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
        .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
      const node = document.querySelector(selector);
      const [a, b] = [level(getComputedStyle(node).color), level(seen(node))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    }"""
    for selector in (
        "h1",
        "#served",
        ".text",
        "dt",
        "summary",
        "mark",
        "form button",
        ".elsewhere",
    ):
        assert shown.evaluate(light, selector) >= 4.5, selector


def test_markup_stays_text(shown, monkeypatch):
    usual = operations.passage_record

    def marked(opened, row):
        return {**usual(opened, row), "title": MARKUP}

    monkeypatch.setattr(operations, "passage_record", marked)
    shown.fill("#text", MARKUP)
    shown.keyboard.press("Enter")
    shown.wait_for_selector(".passages > li")
    assert shown.title() == "ralm" and not shown.query_selector("#columns b, #columns script")
    assert MARKUP in shown.inner_text(".passages h4")


def test_the_corpus_by_words_and_by_search_page_after_page(shown):
    expect = pytest.importorskip("playwright.sync_api").expect
    for mode in ("passages", "search"):
        shown.check(f"[value={mode}]")
        shown.fill("#text", "siege portrait school")
        shown.keyboard.press("Enter")
        shown.wait_for_url(f"**/#mode={mode}*")
        expect(shown.locator(".passages > li")).to_have_count(20)
        shown.click(".more >> nth=0")
        expect(shown.locator(".passages > li")).to_have_count(30)
    shown.go_back()
    shown.wait_for_selector("[value=passages]:checked")
    shown.reload()
    shown.wait_for_selector(".passages > li")
    assert shown.input_value("#text") == "siege portrait school"


def test_a_key_is_asked_for_and_kept_for_the_window(browser, address, serving):
    serving.key = b"open sesame"
    page = browser.new_context().new_page()
    page.goto(f"http://{address.host}:{address.port}/")
    page.wait_for_selector("#key-text")
    page.keyboard.type("open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("#served:has-text('passages')")
    assert not page.is_visible("#key-text")
    page.context.close()
