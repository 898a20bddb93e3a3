"""The page's log: JSON lines that tell requests apart and repeat nothing of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from frontend import logs
from frontend.app import create_app

SECRET = "CLIENT-TEXT-5d1c"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    closed = "http://127.0.0.1:9"
    app = create_app(
        {"TORCHSERVE_URL": closed, "MANAGEMENT_URL": closed, "LOG_FILE": tmp_path / "page.log"}
    )

    @app.get("/api/fails")
    def fails() -> str:
        raise ValueError(SECRET)

    yield app
    logs.log.handlers[0].close()


@pytest.fixture
def client(app: Flask, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))
    return app.test_client()


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "page.log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_each_request_is_a_line_with_its_id(client: FlaskClient, tmp_path: Path) -> None:
    answer = client.post("/api/detect", data=b"photo", headers={"X-Request-ID": "browser-0001"})
    assert answer.headers["X-Request-ID"] == "browser-0001"
    again, done = lines(tmp_path)
    assert (again["event"], again["code"]) == ("asking again", "backend_unreachable")
    assert done["event"] == "request"
    assert (done["route"], done["method"], done["status"]) == ("/api/detect", "POST", 502)
    assert done["code"] == "backend_unreachable"
    assert done["ms"] >= 0
    assert {again["request_id"], done["request_id"]} == {"browser-0001"}


@pytest.mark.parametrize("sent", [None, "", "short", "a b c d e f", '"},{"x":"', "x" * 65, "é" * 9])
def test_an_id_is_made_where_none_or_a_bad_one_came(client: FlaskClient, sent: str | None) -> None:
    headers = {} if sent is None else {"X-Request-ID": sent}
    first, second = (client.get("/", headers=headers).headers["X-Request-ID"] for _ in range(2))
    assert len(first) == len(second) == 32
    assert first != second


def test_nothing_of_the_client_is_logged(client: FlaskClient, tmp_path: Path) -> None:
    client.get(
        f"/{SECRET}?q={SECRET}", headers={"User-Agent": SECRET, "X-Request-ID": f"{SECRET}/"}
    )
    client.open("/", method=SECRET)
    client.post("/api/detect", data=SECRET.encode(), content_type=SECRET)
    answer = client.get("/api/fails")
    assert answer.status_code == 500
    assert answer.json["error"]["code"] == "internal_error"
    found = lines(tmp_path)
    assert [line["status"] for line in found if line["event"] == "request"] == [404, 405, 502, 500]
    failure = next(line for line in found if "error" in line)
    assert failure["error"] == "ValueError"
    assert any("test_logs.py" in place for place in failure["at"])
    assert SECRET not in (tmp_path / "page.log").read_text(encoding="utf-8")


def test_probes_are_logged_only_when_they_fail(client: FlaskClient, tmp_path: Path) -> None:
    client.get("/healthz")
    client.get("/readyz")
    assert [line["route"] for line in lines(tmp_path)] == ["/readyz"]


def test_the_log_is_rotated(
    client: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.log.handlers[0], "maxBytes", 1000)
    for _ in range(40):
        client.get("/")
    files = sorted(tmp_path.glob("page.log*"))
    assert len(files) == 6
    assert all(file.stat().st_size <= 1000 for file in files)


def test_a_full_disk_costs_no_answer(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(logs.log.handlers[0], "stream", full)
    assert client.get("/").status_code == 200
    with pytest.raises(OSError, match="No space"):
        full.close()
