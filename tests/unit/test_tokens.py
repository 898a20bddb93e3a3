"""How the page finds a good token, against an HTTP server that refuses like TorchServe.

tests/e2e/test_token.py asks the real one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from frontend.tokens import Tokens, from_config
from tests.unit.backend import JsonHandler, serving


class Guarded(ThreadingHTTPServer):
    """Knows one good token; remembers the ones it was shown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.good, self.shown, self.answer = "t1", [], (200, {"faces": []})


class Handler(JsonHandler):
    server: Guarded

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        self.server.shown.append(token)
        refusal = 400, {"code": 400, "type": "InvalidKeyException", "message": "?"}
        status, body = self.server.answer if token == self.server.good else refusal
        self.reply(status, body)


@pytest.fixture
def server() -> Iterator[Guarded]:
    guarded = Guarded()
    with serving(guarded):
        yield guarded


def ask(server: Guarded, file: Path) -> int:
    auth = Tokens(file, "http://127.0.0.1:1")
    return requests.post(server.url, data=b"photo", auth=auth, timeout=10).status_code


def test_no_file_no_tokens() -> None:
    assert from_config(None, "http://127.0.0.1:8081") is None
    assert from_config("", "http://127.0.0.1:8081") is None


def test_the_token_of_a_plain_file(server: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t1\n", encoding="utf-8")
    assert ask(server, file) == 200
    assert server.shown == ["t1"]


def test_a_token_that_changes_in_the_meantime_is_waited_for(
    server: Guarded, tmp_path: Path
) -> None:
    """For a while the file is empty, as it is for whoever reads it while it is written."""
    file = tmp_path / "token"
    file.write_text("t0", encoding="utf-8")

    def change() -> None:
        while not server.shown:
            time.sleep(0.01)
        file.write_text("", encoding="utf-8")
        time.sleep(0.2)
        file.write_text("t1", encoding="utf-8")

    writer = threading.Thread(target=change)
    writer.start()
    assert ask(server, file) == 200
    writer.join()
    assert server.shown == ["t0", "t1"]


@pytest.mark.parametrize("content", [None, "", "{", '{"inference": 1}', "wrong"])
def test_without_a_good_token_there_is_one_refusal_and_no_loop(
    server: Guarded, tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frontend.tokens.PATIENCE", 0.1)
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert ask(server, file) == 400
    assert len(server.shown) == 1


def test_an_answer_about_the_photo_is_no_refusal(server: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t1", encoding="utf-8")
    server.answer = 400, {"error": {"code": "bad_request", "message": "?", "status": 400}}
    assert ask(server, file) == 400
    assert server.shown == ["t1"]
