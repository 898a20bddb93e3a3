"""Who the page lets in: hosts, sites, forms, keys and rates.

No detector listens: a request that passes the guard is answered 502 backend_unreachable.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from deploy.torchserve import free_ports
from frontend import keys
from frontend.app import create_app
from tests.conftest import ROOT
from tests.openapi import SPEC, validate

PASSED = (502, "backend_unreachable")
PHOTO = b"\xff\xd8\xff a photo"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks again after a while; here nobody will ever listen."""
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))


def client(**config: Any) -> FlaskClient:
    """A page before a detector whose port is closed."""
    return create_app({"TORCHSERVE_URL": "http://127.0.0.1:1", **config}).test_client()


def detect(page: FlaskClient, address: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    """Status and code of a photo sent to the JSON route."""
    answer = page.post(
        "/api/detect",
        data=PHOTO,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        environ_overrides={"REMOTE_ADDR": address},
    )
    assert answer.headers["Cache-Control"] == "no-store"
    validate(answer.json, "PageError")
    assert str(answer.status_code) in SPEC["paths"]["/api/detect"]["post"]["responses"]
    assert answer.json["error"]["status"] == answer.status_code
    return answer.status_code, answer.json["error"]["code"]


def token(page: FlaskClient) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.get("/").text)
    assert found
    return found[1]


def form(page: FlaskClient, **fields: Any) -> tuple[int, str]:
    """Status and code of a photo sent with the form."""
    answer = page.post("/", data={"image": (io.BytesIO(PHOTO), "a.jpg"), **fields})
    code = re.search(r"<code>(\w+)</code>", answer.text)
    assert code
    return answer.status_code, code[1]


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


def test_who_may_not_ask_takes_nobodys_place(key_file: Path) -> None:
    keys.add(key_file, "alice")
    full = {"PHOTOS": 0, "SLOT_WAIT": 0}  # no room for a photo, now or later
    assert detect(client(**full)) == (503, "backend_busy")
    assert detect(client(**full), Sec_Fetch_Site="cross-site") == (403, "cross_site")
    assert detect(client(**full, API_KEYS=str(key_file))) == (401, "key_required")


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


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_key_file_nobody_needs_a_key() -> None:
    assert detect(client()) == PASSED
    assert detect(client(), **bearer("dfk_anything")) == PASSED


def test_the_json_route_asks_for_a_key_and_the_page_does_not(key_file: Path) -> None:
    good = keys.add(key_file, "alice")
    page = client(API_KEYS=str(key_file))
    assert detect(page, **bearer(good)) == PASSED
    for header in ({}, bearer("dfk_wrong"), bearer(""), bearer("ü"), {"Authorization": good}):
        assert detect(page, **header) == (401, "key_required")
    answer = page.post("/api/detect")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert form(page, csrf_token=token(page)) == PASSED


def test_a_revoked_key_is_refused_at_once(key_file: Path) -> None:
    first, second = keys.add(key_file, "alice"), keys.add(key_file, "bob")
    page = client(API_KEYS=str(key_file))
    assert detect(page, **bearer(first)) == PASSED
    keys.revoke(key_file, "alice")
    assert detect(page, **bearer(first)) == (403, "key_revoked")
    assert detect(page, **bearer(second)) == PASSED
    key_file.write_text("[", encoding="utf-8")
    assert detect(page, **bearer(second)) == (401, "key_required"), "damaged: nobody comes in"


def test_a_key_is_kept_nowhere_and_its_hash_is_its_owners_alone(key_file: Path) -> None:
    good = keys.add(key_file, "alice")
    assert len(good) > 40
    text = key_file.read_text(encoding="utf-8")
    assert good not in text
    assert keys.digest(good) in text
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert list(key_file.parent.iterdir()) == [key_file]


@pytest.mark.parametrize("content", [None, "{}x", "[1]", '[{"name": "a"}]'])
def test_a_page_does_not_start_with_a_key_file_it_cannot_read(
    key_file: Path, content: str | None
) -> None:
    if content is not None:
        key_file.write_text(content, encoding="utf-8")
    with pytest.raises(keys.KeyFileError, match=r"keys\.json"):
        client(API_KEYS=str(key_file))


def key_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "frontend.keys", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_key_command(key_file: Path) -> None:
    assert "revoke" in key_command("--help").stdout
    made = key_command("--file", key_file, "add", "alice").stdout.strip()
    assert detect(client(API_KEYS=str(key_file)), **bearer(made)) == PASSED
    twice = key_command("--file", key_file, "add", "alice")
    assert (twice.returncode, twice.stdout) == (1, "")
    assert twice.stderr == "error: there is a key named 'alice' already; choose another name.\n"
    assert key_command("--file", key_file, "revoke", "alice").returncode == 0
    listed = key_command("--file", key_file, "list").stdout
    assert listed.startswith("alice\tmade ")
    assert "revoked" in listed
    assert key_command("--file", key_file, "revoke", "bob").returncode == 1
    missing = key_command("--file", key_file.with_name("none.json"), "list")
    assert missing.returncode == 1
    assert "cannot be read" in missing.stderr


# Rates

LIMITED = (429, "too_many_requests")


def test_an_address_has_its_rate_and_is_told_when_to_come_back() -> None:
    page = client(RATE="2 per minute")
    assert [detect(page) for _ in range(3)] == [PASSED, PASSED, LIMITED]
    answer = page.post("/api/detect", data=PHOTO)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert form(page, csrf_token=token(page)) == LIMITED, "one allowance for page and route"
    assert page.get("/").status_code == 200, "looking is free"
    assert detect(page, address="192.0.2.7") == PASSED


def test_a_rate_that_nobody_understands_is_no_way_to_start() -> None:
    with pytest.raises(ValueError, match="30 a minute"):
        client(RATE="30 a minute")


def test_an_ipv6_client_has_one_rate_for_all_its_addresses() -> None:
    page = client(RATE="1 per minute")
    assert detect(page, address="2001:db8:0:1::1") == PASSED
    assert detect(page, address="2001:db8:0:1:ffff::2") == LIMITED
    assert detect(page, address="2001:db8:0:2::1") == PASSED


def test_a_proxys_way_to_write_an_address_changes_no_rate() -> None:
    """A port would give a client a rate for each connection, IPv6 all of IPv4 a single one."""
    page = client(RATE="1 per minute", PROXIES=1)
    for first, again, other in (
        ("9.9.9.9:4001", "9.9.9.9:4002", "9.9.9.8:4001"),
        ("::ffff:1.2.3.4", "1.2.3.4", "::ffff:1.2.3.5"),
        ("[2001:db8:1::1]:4001", "2001:db8:1::2", "[2001:db8:2::1]:4001"),
    ):
        assert detect(page, X_Forwarded_For=first) == PASSED
        assert detect(page, X_Forwarded_For=again) == (429, "too_many_requests")
        assert detect(page, X_Forwarded_For=other) == PASSED


def test_a_key_has_its_own_rate_from_wherever_it_comes(key_file: Path) -> None:
    alice, bob = keys.add(key_file, "alice"), keys.add(key_file, "bob")
    page = client(API_KEYS=str(key_file), RATE="1 per minute", KEY_RATE="2 per minute")
    for address, answer in (("192.0.2.1", PASSED), ("192.0.2.2", PASSED), ("192.0.2.3", LIMITED)):
        assert detect(page, address=address, **bearer(alice)) == answer
    assert detect(page, address="192.0.2.3", **bearer(bob)) == PASSED
    # Guessing keys costs the address's allowance.
    assert detect(page, address="192.0.2.9", **bearer("dfk_guess")) == (401, "key_required")
    assert detect(page, address="192.0.2.9", **bearer("dfk_guess")) == LIMITED
    assert detect(page, address="192.0.2.9", **bearer(bob)) == PASSED


def test_other_sites_cannot_use_up_a_visitors_rate() -> None:
    page = client(RATE="1 per minute")
    for _ in range(3):
        assert detect(page, Sec_Fetch_Site="cross-site") == (403, "cross_site")
    assert detect(page) == PASSED


def test_the_address_is_the_proxys_word_only_where_there_is_a_proxy() -> None:
    bare = client(RATE="1 per minute")
    assert detect(bare, X_Forwarded_For="192.0.2.1") == PASSED
    assert detect(bare, X_Forwarded_For="192.0.2.2") == LIMITED
    behind = client(RATE="1 per minute", PROXIES=1)
    assert detect(behind, X_Forwarded_For="192.0.2.1") == PASSED
    assert detect(behind, X_Forwarded_For="192.0.2.2") == PASSED
    # What the client claimed itself stands before what the proxy added.
    assert detect(behind, X_Forwarded_For="192.0.2.77, 192.0.2.2") == LIMITED


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    (port,) = free_ports(1)
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"Ready to accept" in line:
                break
        yield f"redis://127.0.0.1:{port}", process
        process.terminate()


def test_several_pages_count_together_in_redis_and_each_alone_without(
    redis: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, process = redis
    pages = [client(RATE="2 per minute", RATE_STORAGE=url) for _ in range(3)]
    assert [detect(page) for page in pages] == [PASSED, PASSED, LIMITED]
    process.terminate()
    process.wait(10)
    assert detect(pages[0]) == PASSED, "Redis is gone: the page goes on"
    assert [detect(pages[0]) for _ in range(2)] == [PASSED, LIMITED], "with a limit all the same"
