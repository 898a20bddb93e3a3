"""What a visitor does with the page, in a real Chromium before the real service."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from playwright.sync_api import Route, expect

from tests.conftest import ASTRONAUT, FAKES
from tests.e2e.browser import (
    FAKE,
    SHOTS,
    WORDS,
    Open,
    accessible,
    choose,
    results,
    settled,
    shoot,
    wait_for,
)


def test_a_photo_is_examined_at_once_and_its_evidence_opened(open_page: Open) -> None:
    page = open_page()
    shoot(page, "start")
    accessible(page)
    choose(page, FAKE)
    settled(page, 1)
    headline = page.locator(".headline")
    expect(headline).to_have_text(re.compile("Likely fake|Uncertain|No clear sign of manipulation"))
    expect(page.locator("#status")).to_have_text(f"t2i_0102.jpg: {headline.inner_text()}")
    expect(page.locator(".boxes .box")).to_have_count(1)
    page.get_by_text(WORDS["face"]["views"]).click()
    expect(page.get_by_text(WORDS["face"]["flip"])).to_be_visible()
    page.locator(".heat summary").click()
    heat = page.locator(".heat img")
    expect(heat).to_be_visible()
    expect(heat).to_have_js_property("naturalWidth", 320)
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
    wait_for(page, held, 3)
    shoot(page, "waiting")
    accessible(page)
    sent = list(held)
    held.clear()
    page.route("**/", lambda route: route.continue_())
    for route in sent:
        route.continue_()
    settled(page, 6)


def test_the_card_leaves_the_results_where_they_are(open_page: Open) -> None:
    page = open_page()
    choose(page, FAKE)
    settled(page, 1)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=WORDS["result"]["card"]).click()
    expect(opened.value).to_have_title(re.compile(re.escape(WORDS["card"]["title"])))
    expect(page.locator(".result")).to_have_count(1)


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
    page.locator(".sample").first.focus()
    page.keyboard.press("Enter")
    settled(page, 1)
    page.locator(".heat summary").click()
    expect(page.locator(".heat img")).to_be_visible()
    expect(page.locator("#status")).to_contain_text(WORDS["heat"]["ready"])
    expect(page.locator(".brand")).to_have_attribute("target", "_blank")  # or the result would go


def test_after_a_sample_the_next_one_is_a_key_away(open_page: Open) -> None:
    page = open_page()
    page.locator(".sample").first.focus()
    page.keyboard.press("Enter")
    settled(page, 1)
    expect(page.locator(".sample").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    settled(page, 2)
    shoot(page, "samples")


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
