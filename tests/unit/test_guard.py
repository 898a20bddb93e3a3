"""Whom the page lets in: forms, other sites, hosts; and the headers of its answers."""

from __future__ import annotations

import io
import re

import pytest

from tests.unit.visitor import PASSED, PHOTO, client, detect, form, token

pytestmark = pytest.mark.usefixtures("no_waiting")


# Forms


def test_a_form_counts_with_the_token_of_its_page_only() -> None:
    page = client()
    good = token(page)
    assert form(page, csrf_token=good) == PASSED
    assert form(page) == (403, "form_expired")
    assert form(page, csrf_token=good[:-3] + "AAA") == (403, "form_expired")
    stranger = client()
    assert form(stranger, csrf_token=good) == (403, "form_expired"), "it has not the cookie"


def test_the_cookie_is_for_the_form_alone() -> None:
    header = client().get("/").headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(header.split("; "))
    assert "Expires" not in header, "it goes when the browser is closed"


def test_behind_tls_the_cookie_goes_over_tls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_SESSION_COOKIE_SECURE", "true")
    page = client(PROXIES=1)
    tls = {"X-Forwarded-Proto": "https"}
    assert "Secure" in page.get("/", headers=tls).headers["Set-Cookie"].split("; ")
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.get("/", headers=tls).text)
    assert found
    answer = page.post(
        "/",
        data={"csrf_token": found[1], "image": (io.BytesIO(PHOTO), "a.jpg")},
        headers=tls | {"Origin": "https://localhost"},
        base_url="https://localhost",
    )
    assert answer.status_code == PASSED[0], "and no Referer is asked for"


def test_processes_share_a_secret_that_is_configured_and_only_that() -> None:
    first, second = client(SECRET_KEY="12345"), client(SECRET_KEY="12345")
    good = token(first)
    second.set_cookie("form", first.get_cookie("form").value)
    assert form(second, csrf_token=good) == PASSED
    other = client()
    other.set_cookie("form", first.get_cookie("form").value)
    assert form(other, csrf_token=good) == (403, "form_expired")


def test_a_wrong_address_stays_not_found_without_a_token() -> None:
    answer = client().post("/nothing", data={"a": "b"})
    assert answer.status_code == 404


# Other sites


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({}, PASSED),  # curl
        ({"Origin": "http://localhost"}, PASSED),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost"}, PASSED),
        ({"Sec_Fetch_Site": "none"}, PASSED),
        ({"Sec_Fetch_Site": "cross-site"}, (403, "cross_site")),
        ({"Sec_Fetch_Site": "same-site"}, (403, "cross_site")),
        ({"Origin": "https://evil.example"}, (403, "cross_site")),
        ({"Origin": "http://localhost:8000"}, (403, "cross_site")),
        ({"Origin": "http://["}, (403, "cross_site")),
        ({"Origin": ""}, (403, "cross_site")),
        ({"Origin": "null"}, (403, "cross_site")),  # a sandboxed frame, a local file
        # What a browser says of itself counts more than an Origin that looks right.
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost"}, (403, "cross_site")),
    ],
)
def test_a_browser_cannot_use_the_json_route_for_another_site(
    headers: dict[str, str], answer: tuple[int, str]
) -> None:
    assert detect(client(), **headers) == answer


def test_no_other_site_may_read_an_answer() -> None:
    page = client()
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        page.options("/api/detect", headers=asked),
        page.post("/api/detect", data=PHOTO, headers={"Origin": "https://evil.example"}),
        page.get("/", headers={"Origin": "https://evil.example"}),
    ):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1:5000", PASSED),
        ("localhost", PASSED),
        ("[::1]:5000", PASSED),
        ("[", (421, "wrong_host")),
        ("evil.example", (421, "wrong_host")),
        ("127.0.0.1.evil.example:5000", (421, "wrong_host")),
    ],
)
def test_a_name_that_points_here_is_not_enough(host: str, answer: tuple[int, str]) -> None:
    assert detect(client(), Host=host) == answer


def test_hosts_are_a_setting() -> None:
    page = client(HOSTS=["photos.example"])
    assert detect(page, Host="photos.example") == PASSED
    assert detect(page, Host="localhost") == (421, "wrong_host")
    # Who starts it and looks after it asks by address; there is no detector here.
    assert page.get("/healthz", headers={"Host": "10.1.2.3:5000"}).status_code == 200
    assert page.get("/readyz", headers={"Host": "127.0.0.1:5000"}).status_code == 503
    assert "not known by that name" in page.get("/").text
    assert detect(client(HOSTS=[]), Host="any.example") == PASSED


@pytest.mark.parametrize("setting", ["photos.example", '"photos.example"', '["Photos.Example"]'])
def test_a_single_name_needs_no_list(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_HOSTS", setting)
    page = client()
    assert detect(page, Host="photos.example") == PASSED
    for part in ("p", "example", "photos", "."):
        assert detect(page, Host=part) == (421, "wrong_host")


@pytest.mark.parametrize("setting", ["", "[]", "null"])
def test_without_names_any_will_do(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_HOSTS", setting)
    assert detect(client(), Host="any.example") == PASSED


@pytest.mark.parametrize(
    "setting",
    [
        "[photos.example]",
        "a.example, b.example",
        "*.example",
        "photos.example:8000",
        "https://photos.example",
        '[["photos.example"]]',
        '{"photos.example": 1}',
        "7",
        "false",
    ],
)
def test_names_that_nobody_could_have_are_no_way_to_start(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_HOSTS", setting)
    with pytest.raises(ValueError, match="HOSTS has to be names"):
        client()


# Headers


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/nothing", "/healthz", "/static/page.js"])
def test_every_answer_is_for_this_page_alone_and_is_kept_nowhere(path: str) -> None:
    with client().get(path) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "camera=()" in answer.headers["Permissions-Policy"]
        assert answer.headers["Referrer-Policy"] == "same-origin"
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["Content-Security-Policy"].split(";")
        )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["form-action"] == "'self'"
