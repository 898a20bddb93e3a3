"""The page in a real Chromium, before the real service; screenshots go to build/screenshots.

Skipped where there is no Chromium, unless DEEPFAKE_BROWSER_TESTS is "required".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect, sync_playwright

from frontend.text import load
from tests.conftest import ASTRONAUT, FAKES, FIXTURES, montage
from tests.e2e.conftest import ROOT, Service

SHOTS = ROOT / "build" / "screenshots"
WORDS = load()
FAKE = FIXTURES / "t2i_0102.jpg"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        if os.environ.get("DEEPFAKE_BROWSER_TESTS") == "required":
            pytest.fail("there is no Chromium, and DEEPFAKE_BROWSER_TESTS asks for it")
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    SHOTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield running
        running.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Open]:
    """Opens a path of the page in a fresh profile; fails on scripts' errors and foreign hosts."""
    host = urlsplit(service.page).netloc
    faults: list[str] = []
    contexts = []

    def look(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != host:
            faults.append(f"asked {request.url}")

    def start(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", look)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if "Security Policy" in m.text else None)
        page.goto(service.page + path)
        return page

    yield start
    for context in contexts:
        context.close()
    assert faults == []


def choose(page: Page, *photos: Path) -> None:
    page.set_input_files("#image", list(photos))


def results(page: Page) -> Locator:
    return page.locator("#answer > :is(.result, .error)")


def settled(page: Page, count: int) -> None:
    expect(results(page)).to_have_count(count, timeout=60_000)


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


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of several people."""
    path = tmp_path_factory.mktemp("photos") / "group.png"
    montage([Image.open(p).convert("RGB") for p in FAKES[:6]], columns=3, cell=300).save(path)
    return path


def test_a_photo_is_examined_at_once_and_its_evidence_opened(open_page: Open) -> None:
    page = open_page()
    shoot(page, "start")
    accessible(page)
    choose(page, FAKE)
    settled(page, 1)
    headline = page.locator(".headline")
    expect(headline).to_have_text(re.compile("Likely fake|Uncertain|No sign of manipulation"))
    expect(page.locator("#status")).to_have_text(f"t2i_0102.jpg: {headline.inner_text()}")
    expect(page.locator(".boxes .box")).to_have_count(1)
    page.get_by_text(WORDS["face"]["views"]).click()
    expect(page.get_by_text(WORDS["face"]["flip"])).to_be_visible()
    page.locator(".heat summary").click()
    heat = page.locator(".heat img")
    expect(heat).to_be_visible()
    assert heat.evaluate("image => image.naturalWidth") == 320
    expect(page.get_by_text("no proof of what was changed")).to_be_visible()
    shoot(page, "result")
    accessible(page)


def test_several_photos_each_with_its_own_fate(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    text = tmp_path / "notes.txt"
    text.write_text("not a photo")
    choose(page, ASTRONAUT, text, *FAKES[:5])
    settled(page, 7)
    names = [name.inner_text() for name in results(page).locator(".file").all()]
    assert names == [p.name for p in (ASTRONAUT, text, *FAKES[:5])]
    expect(page.locator(".result")).to_have_count(6)
    failed = page.locator(".error")
    expect(failed).to_contain_text("This file is not a photo we can read")
    expect(failed).to_contain_text(WORDS["errors"]["next"])
    shoot(page, "several")
    accessible(page)
    failed.get_by_role("button", name=f"Remove {text.name}").click()
    expect(results(page)).to_have_count(6)


def test_uploads_show_their_progress_and_only_a_few_go_at_once(open_page: Open) -> None:
    page = open_page()
    held: list[Route] = []
    page.route("**/", lambda route: held.append(route))
    choose(page, *FAKES[:6])
    expect(page.locator(".waiting")).to_have_count(6)
    expect(page.get_by_text(WORDS["script"]["waiting"])).to_have_count(3)
    bars = page.get_by_role("progressbar")
    expect(bars).to_have_count(6)
    expect(bars.first).to_have_accessible_name("Progress of " + FAKES[0].name)
    assert len(held) == 3
    shoot(page, "waiting")
    accessible(page)
    sent = list(held)
    held.clear()
    page.route("**/", lambda route: route.continue_())
    for route in sent:
        route.continue_()
    settled(page, 6)


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
    page.unroute("**/")
    failed.get_by_role("button", name="Try again").click()
    expect(page.locator(".result")).to_be_visible()


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
    choose(page, *FAKES[:4])
    expect(page.locator(".state").filter(has_text="goes on in 3 s").first).to_be_visible()
    settled(page, 4)
    expect(page.locator(".result")).to_have_count(4)


def test_a_rate_that_lasts_for_hours_is_told(open_page: Open) -> None:
    page = open_page()
    page.route("**/", lambda r: r.fulfill(status=429, body="", headers={"Retry-After": "9000"}))
    choose(page, FAKE)
    expect(page.locator(".error .headline")).to_have_text(WORDS["script"]["busy"])


def test_a_slow_line_is_no_lost_one(open_page: Open, tmp_path: Path) -> None:
    """The time without an answer counts from the last byte that went, not from the first."""
    page = open_page("/docs/api")
    script = (ROOT / "frontend" / "static" / "page.js").read_text(encoding="utf-8")
    impatient = script.replace("TIMEOUT = 120_000", "TIMEOUT = 8_000")
    assert impatient != script
    page.route(
        "**/page.js", lambda route: route.fulfill(body=impatient, content_type="text/javascript")
    )
    page.goto(page.url.removesuffix("docs/api"))
    photo = tmp_path / "photo.bmp"
    Image.open(FAKE).convert("RGB").resize((600, 600)).save(photo)  # 1 MB
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 60_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", limits)
    choose(page, photo)
    settled(page, 1)
    expect(page.locator(".result")).to_be_visible()


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
    page.wait_for_timeout(500)
    assert len(held) == 1
    held.pop().abort()
    told = page.locator(".heat[open] [role=status]")
    expect(told).to_have_text([WORDS["script"]["heat_failed"]] * 2)
    heats.nth(0).click()
    heats.nth(0).click()
    expect(told).to_have_text([WORDS["heat"]["loading"]] * 2)
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


def test_the_card_leaves_the_results_where_they_are(open_page: Open) -> None:
    page = open_page()
    choose(page, FAKE)
    settled(page, 1)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=WORDS["result"]["card"]).click()
    expect(opened.value).to_have_title(re.compile(re.escape(WORDS["card"]["title"])))
    expect(page.locator(".result")).to_have_count(1)


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
    page.route("**/", lambda route: pytest.fail("it was sent"))
    choose(page, large)
    expect(page.locator(".error")).to_contain_text("at most 20 MB")


def test_a_photo_can_be_dropped_and_pasted(open_page: Open) -> None:
    page = open_page()
    make = """async (type) => {
        const blob = await (await fetch("/static/samples/astronaut.jpg")).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], type + ".jpg", {type: "image/jpeg"}));
        const init = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
        const event = type === "drop" ? new DragEvent(type, init) : new ClipboardEvent(type, init);
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(make, "drop")
    page.evaluate(make, "paste")
    expect(page.locator(".result")).to_have_count(2)
    expect(page.locator(".result .file")).to_have_text(["drop.jpg", "paste.jpg"])


def test_samples_can_be_tried(open_page: Open) -> None:
    page = open_page()
    page.locator(".sample").first.click()
    settled(page, 1)
    page.locator(".heat summary").click()
    expect(page.locator(".heat img")).to_be_visible()


def test_the_result_can_be_taken_home(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    choose(page, FAKE)
    settled(page, 1)
    with page.expect_download() as download:
        page.get_by_text(WORDS["result"]["json"]).click()
    document = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert document["file"]["sha256"] == hashlib.sha256(FAKE.read_bytes()).hexdigest()
    assert len(document["result"]["model"]["checkpoint"]) == 64
    page.evaluate("window.print = () => {}")
    page.get_by_text(WORDS["result"]["print"]).click()
    page.emulate_media(media="print")
    for shown in (document["file"]["sha256"], document["result"]["model"]["checkpoint"], " UTC"):
        expect(page.get_by_text(shown)).to_be_visible()
    expect(page.locator("#form")).to_be_hidden()
    shoot(page, "report")
    page.pdf(path=SHOTS / "report.pdf", prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", (SHOTS / "report.pdf").read_bytes())) == 1


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
