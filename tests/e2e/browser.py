"""What the tests of the page in a real Chromium share; screenshots go to build/screenshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from frontend.text import load
from tests.conftest import FIXTURES, ROOT

SHOTS = ROOT / "build" / "screenshots"
WORDS = load()
FAKE = FIXTURES / "t2i_0102.jpg"
Open = Callable[..., Page]


def choose(page: Page, *photos: Path) -> None:
    page.set_input_files("#image", list(photos))


def results(page: Page) -> Locator:
    return page.locator("#answer > :is(.result, .error)")


def settled(page: Page, count: int) -> None:
    expect(results(page)).to_have_count(count, timeout=60_000)


def wait_for(page: Page, held: list[Route], count: int) -> None:
    """Until so many requests are held back, and no more of them.

    What the page shows of a request may be there before it is on its way.
    """
    for _ in range(600):
        if len(held) >= count:
            break
        page.wait_for_timeout(50)
    page.wait_for_timeout(300)  # for one too many
    assert len(held) == count


def shoot(page: Page, name: str) -> None:
    """The whole page: in a window of its height, as full_page forgets that a phone has touch."""
    before = page.viewport_size
    assert before
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": before["width"], "height": height})
    page.screenshot(path=SHOTS / f"{name}.png")
    page.set_viewport_size(before)


def no_sideways_scrolling(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
