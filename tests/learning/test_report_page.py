"""The page of a report in a real browser: figures, toggles, widths, no request, no error."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import CHROMIUM, Browser
from tests.recorded import write_study

from noisydqn.runs.folder import RunFolder
from noisydqn.runs.pages import write_page
from noisydqn.runs.reporting import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    envs = ("CartPole-v1", "Acrobot-v1")
    return report(write_study(root / "runs", envs=envs), out=root / "report.html")


FIRST = "document.querySelector('[data-figure] svg')"


def paths(browser: Browser) -> int:
    """The lines in the first figure."""
    return browser.run(f"{FIRST}.querySelectorAll('path.middle').length")


def test_figures_are_drawn_without_a_request_or_an_error(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.requests == [page.as_uri()]
    assert browser.problems == []
    open_figures = (
        "[...document.querySelectorAll('[data-figure]')].filter(x => x.checkVisibility())"
    )
    assert browser.run(f"{open_figures}.length") >= 6
    assert browser.run(f"{open_figures}.every(x => x.querySelector('svg path, svg circle'))")
    assert paths(browser) == 2
    assert browser.run(f"{FIRST}.querySelectorAll('path.band').length") == 2
    assert browser.run(f"{FIRST}.querySelectorAll('path.thin').length") == 12
    assert not browser.run("document.querySelector('main').innerText.includes('NaN')")
    assert not browser.run(
        "[...document.querySelectorAll('svg path')].some("
        "x => /NaN|Infinity/.test(x.getAttribute('d')))"
    )


def test_the_first_screen_has_the_verdict_and_the_curves(browser: Browser, page: Path) -> None:
    browser.open(page)
    bottom = "document.querySelector('.verdict').getBoundingClientRect().bottom"
    assert browser.run(bottom) < 400
    assert browser.run(f"{FIRST}.getBoundingClientRect().top") < 500


def test_toggles(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.run(f"{FIRST}.outerHTML")
    words = {"updates": "updates", "seconds": "seconds of training", "steps": "environment steps"}
    for axis, label in words.items():
        browser.run(f"document.querySelector('input[value={axis}]').click()")
        labels = browser.run(f"[...{FIRST}.querySelectorAll('text')].map(x => x.textContent)")
        assert label in labels
    assert browser.run(f"{FIRST}.outerHTML") == before
    browser.run("document.querySelector('[data-variant=\"1\"]').click()")
    assert paths(browser) == 1
    assert browser.run("document.querySelector('[data-variant=\"1\"]').ariaPressed") == "false"
    browser.run("document.querySelector('[data-variant=\"0\"]').click()")
    assert paths(browser) == 0
    for variant in (0, 1):
        browser.run(f"document.querySelector('[data-variant=\"{variant}\"]').click()")
    assert browser.run(f"{FIRST}.outerHTML") == before
    assert browser.problems == []


def test_closed_parts_are_drawn_when_they_are_opened(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(x => x.open = true)")
    browser.wait("[...document.querySelectorAll('[data-figure]')].every(x => !!x.firstChild)")
    browser.run("document.querySelectorAll('details').forEach(x => x.open = false)")
    browser.run("document.querySelector('input[value=seconds]').click()")
    browser.run("document.querySelectorAll('details').forEach(x => x.open = true)")
    shown = "[...document.querySelectorAll('details [data-figure] text')].map(x => x.textContent)"
    browser.wait(f"{shown}.includes('seconds of training')")
    browser.wait(f"!{shown}.includes('environment steps')")
    assert browser.problems == []


def test_the_pointer_shows_values(browser: Browser, page: Path) -> None:
    browser.open(page)
    box = browser.run(f"{FIRST}.getBoundingClientRect().toJSON()")
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tip = "document.querySelector('.tip')"
    browser.wait(f"!{tip}.hidden")
    assert "noisy: " in browser.run(f"{tip}.textContent")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_readable(width: int, dark: bool, browser: Browser, page: Path) -> None:
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    smallest = "Math.min(...[...document.querySelectorAll('svg text, td, p, li')].filter("
    smallest += "x => x.checkVisibility()).map(x => parseFloat(getComputedStyle(x).fontSize)))"
    assert browser.run(smallest) >= 11
    scale = f"{FIRST}.clientWidth / {FIRST}.viewBox.baseVal.width"
    assert browser.run(scale) == pytest.approx(1, abs=0.05)
    back = browser.run("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert browser.problems == []


def test_the_page_of_a_run(browser: Browser, tmp_path: Path) -> None:
    write_study(tmp_path, seeds=1)
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "CartPole-v1" / "exploration=noisy" / "seed-0", run)
    write_page(RunFolder.at(run))
    browser.open(run / "report.html")
    assert browser.problems == []
    assert browser.run("document.querySelectorAll('.figures svg').length") >= 5
