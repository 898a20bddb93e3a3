"""Who may ask the page how often: API keys and rates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.torchserve import free_ports
from frontend import keys
from tests.conftest import ROOT
from tests.unit.visitor import PASSED, PHOTO, client, detect, form, token

pytestmark = pytest.mark.usefixtures("no_waiting")


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


def test_who_may_not_ask_takes_nobodys_place(key_file: Path) -> None:
    keys.add(key_file, "alice")
    full = {"PHOTOS": 0, "SLOT_WAIT": 0}  # no room for a photo, now or later
    assert detect(client(**full)) == (503, "backend_busy")
    assert detect(client(**full), Sec_Fetch_Site="cross-site") == (403, "cross_site")
    assert detect(client(**full, API_KEYS=str(key_file))) == (401, "key_required")


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
