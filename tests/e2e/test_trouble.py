"""What goes wrong between a visitor's browser and the service, and what the page says then."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.conftest import FAKES, ROOT
from tests.e2e.browser import FAKE, WORDS, Open, accessible, choose, settled, shoot, wait_for

PATIENCE = 8  # seconds without progress, of a page that is made less patient


def test_a_lost_connection_fails_alone_and_can_be_tried_again(open_page: Open) -> None:
    page = open_page()
    lost: list[Route] = []

    def lose(route: Route) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route)
            route.abort()

    page.route("**/", lose)
    choose(page, *FAKES[:2])
    settled(page, 2)
    failed = page.locator(".error")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text(WORDS["script"]["lost"])
    shoot(page, "lost")
    accessible(page)
    failed.get_by_role("button", name="Try again").click()
    expect(page.locator(".result")).to_have_count(2)


def test_an_expired_form_is_renewed_by_itself(open_page: Open) -> None:
    """As one is whose cookie another tab has replaced, or whose page was started anew."""
    page = open_page()
    page.context.clear_cookies()
    choose(page, *FAKES[:6])
    settled(page, 6)
    expect(page.locator(".result")).to_have_count(6)


def test_without_a_cookie_it_is_said_what_is_missing(open_page: Open) -> None:
    page = open_page()
    page.route("**/", lambda route: (page.context.clear_cookies(), route.continue_()))
    page.context.clear_cookies()
    choose(page, FAKE)
    failed = page.locator(".error")
    expect(failed).to_contain_text(WORDS["errors"]["form_expired"]["title"])
    expect(failed.locator(".file")).to_have_text(FAKE.name)
    page.unroute("**/")
    choose(page, FAKES[0])
    expect(page.locator(".result")).to_have_count(1)
    expect(failed).to_have_count(1)  # it has not gone for the next one
    failed.get_by_role("button", name="Try again").click()
    expect(page.locator(".result")).to_have_count(2)


def test_more_photos_than_a_rate_allows_go_on_by_themselves(open_page: Open) -> None:
    page = open_page()
    refused: list[Route] = []

    def refuse(route: Route) -> None:
        if len(refused) >= 2:
            route.continue_()
            return
        refused.append(route)
        route.fulfill(status=429, body="<p>Later.</p>", headers={"Retry-After": "3"})

    page.route("**/", refuse)
    page.evaluate(
        """() => {
          const status = document.getElementById("status");
          window.told = [];
          const seen = new MutationObserver(() => told.push(status.textContent));
          seen.observe(status, { childList: true });
        }"""
    )
    choose(page, *FAKES[:4])
    expect(page.locator(".state").filter(has_text="goes on in").first).to_be_visible()
    settled(page, 4)
    expect(page.locator(".result")).to_have_count(4)
    told = page.evaluate("told")  # to those who do not see the page
    assert any("goes on in" in text for text in told)
    assert f"{FAKES[3].name}: {WORDS['script']['examining']}" in told


def test_a_rate_that_lasts_for_hours_is_told(open_page: Open) -> None:
    page = open_page()
    page.route("**/", lambda r: r.fulfill(status=429, body="", headers={"Retry-After": "9000"}))
    choose(page, FAKE)
    expect(page.locator(".error .headline")).to_have_text(WORDS["script"]["busy"])


def test_a_photo_chosen_before_the_script_came_is_sent(open_page: Open) -> None:
    page = open_page("/docs/api")
    held: list[Route] = []
    page.route("**/page.js", lambda route: held.append(route))
    page.goto(page.url.removesuffix("docs/api"), wait_until="commit")
    choose(page, FAKE)
    wait_for(page, held, 1)
    held[0].continue_()
    settled(page, 1)
    expect(page.locator(".result .file")).to_have_text(FAKE.name)


def test_who_leaves_while_photos_are_under_way_is_asked(open_page: Open) -> None:
    page = open_page()
    card = page.get_by_role("navigation").get_by_role("link", name=WORDS["site"]["card"])
    expect(card).not_to_have_attribute("target", "_blank")
    held: list[Route] = []
    page.route("**/", lambda route: held.append(route))
    page.locator("h1").click()  # browsers ask nobody who has not touched the page
    choose(page, FAKE)
    wait_for(page, held, 1)
    with page.expect_event("dialog") as asked:
        page.evaluate("setTimeout(() => location.reload())")
    assert asked.value.type == "beforeunload"
    asked.value.dismiss()
    held[0].continue_()
    settled(page, 1)
    expect(card).to_have_attribute("target", "_blank")  # the results are on this page alone


@pytest.mark.parametrize("way", ["upload", "download"])
def test_a_slow_line_is_no_lost_one(open_page: Open, tmp_path: Path, way: str) -> None:
    """The time without an answer counts from the last byte, not from the first."""
    page = open_page("/docs/api")
    script = (ROOT / "frontend" / "static" / "page.js").read_text(encoding="utf-8")
    impatient = script.replace("TIMEOUT = 120_000", f"TIMEOUT = {PATIENCE}_000")
    assert impatient != script
    page.route(
        "**/page.js", lambda route: route.fulfill(body=impatient, content_type="text/javascript")
    )
    page.goto(page.url.removesuffix("docs/api"))
    photo = tmp_path / "photo.bmp"
    Image.open(FAKE).convert("RGB").resize((720, 720)).save(photo)  # 1.6 MB
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    limits[f"{way}Throughput"] = {"upload": 120_000, "download": 10_000}[way]
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", limits)
    started = time.monotonic()
    choose(page, photo)
    settled(page, 1)
    expect(page.locator(".result")).to_be_visible()
    assert time.monotonic() - started > PATIENCE, "or the line was not slow"


def test_a_heat_map_that_fails_says_so_for_every_face_and_can_be_had_again(
    open_page: Open, group: Path
) -> None:
    page = open_page()
    choose(page, group)
    settled(page, 1)
    held: list[Route] = []
    page.route("**/", lambda route: held.append(route))
    heats = page.locator(".heat summary")
    heats.nth(0).click()
    heats.nth(1).click()
    wait_for(page, held, 1)
    held.pop().abort()
    told = page.locator(".heat[open] [role=status]")
    expect(told).to_have_text([WORDS["script"]["heat_failed"]] * 2)
    heats.nth(0).click()
    heats.nth(0).click()
    expect(told).to_have_text([WORDS["heat"]["loading"]] * 2)
    wait_for(page, held, 1)
    held.pop().continue_()
    expect(page.locator(".heat[open] img")).to_have_count(2)


def test_an_error_that_was_there_before_is_no_answer(open_page: Open, tmp_path: Path) -> None:
    page = open_page("/nothing-here")
    expect(page.locator(".error")).to_have_count(1)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    choose(page, FAKE, empty)
    settled(page, 2)
    expect(page.locator(".error")).to_have_count(1)
    expect(page.locator(".error .headline")).to_have_text(WORDS["script"]["empty"])
    expect(page).to_have_title(re.compile(rf"^[\w ]+ \S {WORDS['site']['name']}$"))
    page.locator(".error").get_by_role("button", name="Remove").click()
    expect(page).to_have_title(WORDS["site"]["name"])


def test_of_a_folder_it_is_said_that_it_cannot_be_sent(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    shutil.copy(FAKE, tmp_path / "photo.jpg")
    (tmp_path / "folder").mkdir()
    box = page.locator("#drop").bounding_box()
    assert box
    session = page.context.new_cdp_session(page)
    data = {
        "items": [],
        "files": [str(tmp_path / name) for name in ("photo.jpg", "folder")],
        "dragOperationsMask": 1,
    }
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"type": kind, "x": box["x"] + 20, "y": box["y"] + 20, "data": data}
        session.send("Input.dispatchDragEvent", place)
    settled(page, 1)
    expect(page.locator(".result .file")).to_have_text("photo.jpg")
    expect(page.locator("#problem")).to_have_text(WORDS["script"]["folder"])


@pytest.mark.parametrize(("status", "words"), [(413, "too_large"), (503, "busy"), (400, "lost")])
def test_a_proxys_refusal_is_told_in_our_words(open_page: Open, status: int, words: str) -> None:
    page = open_page()
    page.route("**/", lambda route: route.fulfill(status=status, body="<h1>nginx</h1>"))
    choose(page, FAKE)
    expect(page.locator(".error .headline")).to_have_text(WORDS["script"][words])


def test_a_file_that_is_too_large_is_not_sent(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(20 * 2**20 + 1))
    sent: list[Route] = []
    page.route("**/", lambda route: sent.append(route))
    choose(page, large)
    expect(page.locator(".error")).to_contain_text("at most 20 MB")
    wait_for(page, sent, 0)
