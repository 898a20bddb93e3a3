"""The page on a phone, in the dark, enlarged, by keyboard alone and without scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import ASTRONAUT
from tests.e2e.browser import (
    FAKE,
    WORDS,
    Open,
    accessible,
    choose,
    no_sideways_scrolling,
    settled,
    shoot,
)

PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page: Open, group: Path, scheme: str) -> None:
    page = open_page(**PHONE, color_scheme=scheme)
    expect(page.get_by_text(WORDS["form"]["camera"])).to_be_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    assert no_sideways_scrolling(page)
    shoot(page, f"phone-start-{scheme}")
    choose(page, group)
    settled(page, 1)
    assert page.locator(".face").count() >= 6
    page.locator(".heat summary").first.click()
    expect(page.locator(".heat img").first).to_be_visible()
    assert no_sideways_scrolling(page)
    shoot(page, f"phone-result-{scheme}")
    accessible(page)


def test_in_the_dark(open_page: Open, group: Path) -> None:
    page = open_page(color_scheme="dark")
    shoot(page, "dark-start")
    accessible(page)
    choose(page, ASTRONAUT, group)
    settled(page, 2)
    shoot(page, "dark-result")
    accessible(page)


def test_with_the_keyboard_alone(open_page: Open) -> None:
    page = open_page()
    # Long before the key: Chromium takes a moment until it asks us instead of opening its dialog.
    page.on("filechooser", lambda chooser: chooser.set_files(FAKE))
    page.keyboard.press("Tab")
    expect(page.get_by_text(WORDS["site"]["skip"])).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#image")).to_be_focused()
    shoot(page, "keyboard")
    page.keyboard.press("Enter")
    settled(page, 1)
    for name in (WORDS["face"]["views"], WORDS["heat"]["title"], WORDS["result"]["facts"]):
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()") == name:
                break
        page.keyboard.press("Enter")
    expect(page.get_by_text(WORDS["face"]["flip"])).to_be_visible()
    expect(page.locator(".heat img")).to_be_visible()
    expect(page.get_by_text(WORDS["result"]["hash"])).to_be_visible()


def test_retrying_by_keyboard_does_not_lose_the_place(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    (tmp_path / "notes.txt").write_text("not a photo")
    choose(page, tmp_path / "notes.txt")
    settled(page, 1)
    page.get_by_role("button", name="Try again").focus()
    page.keyboard.press("Enter")
    settled(page, 1)
    assert page.evaluate("document.activeElement.matches('.error')")


def test_without_javascript(open_page: Open, tmp_path: Path) -> None:
    page = open_page(java_script_enabled=False)
    shoot(page, "plain-start")
    (tmp_path / "notes.txt").write_text("not a photo")
    choose(page, ASTRONAUT, tmp_path / "notes.txt")
    page.get_by_label(WORDS["form"]["heat"]).check()
    page.get_by_role("button", name=WORDS["form"]["submit"], exact=True).click()
    expect(page.locator(".result .headline")).to_be_visible()
    expect(page.locator(".heat img")).to_be_visible()
    expect(page.locator(".error")).to_contain_text("not a photo we can read")
    expect(page.get_by_role("button", name=WORDS["result"]["print"])).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_text(WORDS["result"]["json"]).click()
    assert json.loads(download.value.path().read_text(encoding="utf-8"))["result"]["faces"]
    shoot(page, "plain-result")
    page.locator(".result").get_by_text(WORDS["result"]["facts"]).click()
    expect(page.get_by_text(WORDS["result"]["hash"])).to_be_visible()


@pytest.mark.parametrize("path", ["/docs/model-card", "/docs/api"])
def test_documents_are_readable_on_any_screen(open_page: Open, path: str) -> None:
    for width, scheme in ((1280, "light"), (320, "dark")):
        page = open_page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert no_sideways_scrolling(page)
        for details in page.locator("details").all():
            details.locator("summary").click()
        accessible(page)
        shoot(page, f"{path.rpartition('/')[2]}-{width}")


def test_text_of_double_size_stays_readable(open_page: Open) -> None:
    """As WCAG 1.4.4 asks: here a window of half the width does the same as zooming in."""
    page = open_page(viewport={"width": 640, "height": 450}, device_scale_factor=2)
    choose(page, FAKE)
    settled(page, 1)
    assert no_sideways_scrolling(page)
