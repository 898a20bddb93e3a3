"""With token authorisation on: TorchServe answers nobody but the page, which keeps its token."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import requests

from deploy import tokens
from deploy.container import ready
from frontend.app import create_app
from tests.conftest import ASTRONAUT
from tests.e2e.conftest import Service, start, stop
from tests.e2e.test_launcher import servers

LIFE = 4  # seconds that a token is good for here
PHOTO = ASTRONAUT.read_bytes()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_TOKEN_EXPIRATION_TIME_MIN", str(LIFE / 60))
        running = start(tmp_path_factory.mktemp("logs"), "--token")
    yield running
    stop(running)
    assert not key_file(running).exists(), "the keys go with the server"


def key_file(service: Service) -> Path:
    return service.logs / "keys" / "key_file.json"


def keys(service: Service) -> dict[str, dict[str, str]]:
    for _ in range(100):  # TorchServe writes it in place: it may be half there
        with contextlib.suppress(ValueError):
            return json.loads(key_file(service).read_text())
        time.sleep(0.02)
    pytest.fail("the key file is never whole")


def ask(service: Service, token: str | None) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(service.url, data=PHOTO, headers=headers, timeout=60)


def through_the_page(service: Service) -> requests.Response:
    return requests.post(f"{service.page}/api/detect", data=PHOTO, timeout=60)


def management_port(service: Service) -> int:
    return int(service.management.rpartition(":")[2])


def until_expired(service: Service, kind: str) -> str:
    """Wait until the token that is in force has expired; the token."""
    entry = keys(service)[kind]
    end = datetime.fromisoformat(entry["expiration time"][:19]).replace(tzinfo=UTC)
    time.sleep(max(0, (end - datetime.now(UTC)).total_seconds()) + 1)
    # The supervisor looks at the management API every two seconds, and keeps its own token good.
    assert kind == "management" or keys(service)[kind] == entry, "nothing has renewed it"
    return entry["key"]


def well(port: int) -> bool:
    """What the health check says, which is asked three times before it counts."""
    return any(ready.ready(port) for _ in range(3))


def test_torchserve_answers_nobody_without_a_token(guarded: Service) -> None:
    for token in (None, "wrong", keys(guarded)["API"]["key"]):
        answer = ask(guarded, token)
        assert answer.status_code == 400
        assert answer.json()["type"] == "InvalidKeyException"
    for path in ("/models", "/models/deepfake", "/token?type=inference"):
        answer = requests.get(guarded.management + path, timeout=10)
        assert answer.status_code == 400, path
    scaled = requests.put(f"{guarded.management}/models/deepfake?min_worker=3", timeout=10)
    assert scaled.status_code == 400


def test_the_keys_are_their_owners_alone(guarded: Service) -> None:
    assert stat.S_IMODE(key_file(guarded).stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file(guarded).parent.stat().st_mode) == 0o700


def test_the_page_renews_a_token_that_has_expired(guarded: Service) -> None:
    assert through_the_page(guarded).status_code == 200
    old = until_expired(guarded, "inference")
    assert ask(guarded, old).status_code == 400
    answer = through_the_page(guarded)
    assert answer.status_code == 200, answer.text
    assert answer.json()["label"] in ("Fake", "Real")
    assert keys(guarded)["inference"]["key"] != old


def test_the_page_finds_the_token_that_another_has_renewed(guarded: Service) -> None:
    """As when a second page shares the key file: the first one's token ends before its time."""
    for _ in range(3):
        before = keys(guarded)["inference"]["key"]
        tokens.renew(keys(guarded), "inference", management_port(guarded))
        assert keys(guarded)["inference"]["key"] != before
        assert through_the_page(guarded).status_code == 200


def test_readiness_outlives_the_management_token(guarded: Service) -> None:
    assert requests.get(f"{guarded.page}/readyz", timeout=10).ok
    old = until_expired(guarded, "management")
    bearer = {"Authorization": f"Bearer {old}"}
    assert (
        requests.get(f"{guarded.management}/models", headers=bearer, timeout=10).status_code == 400
    )
    assert requests.get(f"{guarded.page}/readyz", timeout=10).ok


def test_a_container_hands_the_page_its_token_and_no_other_key(
    guarded: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The health check, with the page's file as in deploy/compose.yaml."""
    target, port = tmp_path / "token", management_port(guarded)
    monkeypatch.setattr(ready, "KEY_FILE", key_file(guarded))
    monkeypatch.setenv("DEEPFAKE_TOKEN_FILE", str(target))
    until_expired(guarded, "management")
    assert well(port), "it renews its own token"
    ready.hand_on_token(port)
    first = target.read_text()
    assert first == keys(guarded)["inference"]["key"]
    assert ask(guarded, first).status_code == 200
    # Here every token is about to expire: each check renews it, before the page meets the end.
    ready.hand_on_token(port)
    assert target.read_text() != first
    assert os.listdir(tmp_path) == ["token"]
    assert ask(guarded, target.read_text()).status_code == 200


def test_a_page_elsewhere_gets_by_with_the_file_that_is_handed_on(
    guarded: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, port = tmp_path / "token", management_port(guarded)
    monkeypatch.setattr(ready, "KEY_FILE", key_file(guarded))
    monkeypatch.setenv("DEEPFAKE_TOKEN_FILE", str(target))
    ready.hand_on_token(port)
    page = create_app(
        {
            "TORCHSERVE_URL": guarded.url.partition("/predictions")[0],
            "MANAGEMENT_URL": "http://127.0.0.1:1",
            "TOKEN_FILE": str(target),
        }
    ).test_client()
    assert page.post("/api/detect", data=PHOTO).status_code == 200
    monkeypatch.setattr("frontend.tokens.PATIENCE", 20)
    until_expired(guarded, "inference")
    check = threading.Timer(0.5, ready.hand_on_token, (port,))  # the next health check
    check.start()
    assert page.post("/api/detect", data=PHOTO).status_code == 200
    check.join()


def test_all_that_listens_does_so_on_loopback(guarded: Service) -> None:
    listening = {
        connection.laddr
        for pid in servers(guarded)
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) == 6, "page, three of TorchServe and its two gRPC servers"
    assert {a.ip.removeprefix("::ffff:") for a in listening} == {"127.0.0.1"}
    assert not {7070, 7071} & {a.port for a in listening}
