"""When the page asks TorchServe again, and which TorchServe it asks."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from frontend.client import Client
from frontend.errors import BackendError
from frontend.logs import request_id
from tests.unit.backend import JsonHandler, serving

VERDICT = {"label": "Fake", "faces": []}
BUSY = (503, {"code": 503, "message": "?"}, {})
DIED = (507, {"code": 507, "message": "Worker died."}, {})
HUNG = (500, {"code": 500, "message": "Worker did not respond."}, {})
OURS = (500, {"error": {"code": "internal_error", "message": "!", "status": 500}}, {})
GONE = (0, {}, {})  # the connection is cut
Answer = tuple[int, dict[str, Any], dict[str, str]]


class Server(ThreadingHTTPServer):
    """Gives these answers in their order, then verdicts."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = list(answers)
        self.asked: list[tuple[float, str | None, bytes]] = []
        self.at_once, self.most_at_once, self.seconds = 0, 0, 0.0
        self.lock = threading.Lock()


class Handler(JsonHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.asked.append((time.monotonic(), self.headers["X-Request-ID"], body))
            status, answer, headers = (
                server.answers.pop(0) if server.answers else (200, VERDICT, {})
            )
            server.at_once += status == 200
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.seconds)
        with server.lock:
            server.at_once -= status == 200
        if status:
            with contextlib.suppress(ConnectionError):  # the asker may have given up
                self.reply(status, answer, headers)
        else:
            self.close_connection = True


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.01, 0.02))
    with contextlib.ExitStack() as stack:

        def start(*answers: Answer) -> Server:
            server = Server(*answers)
            stack.enter_context(serving(server))
            return server

        yield start


def client(server: Server, timeout: float = 10, switch: Path | None = None) -> Client:
    return Client(server.url, server.url, "deepfake", timeout, switch=switch)


def ask(client: Client, blob: bytes = b"photo") -> str:
    """The label, or the code of the error."""
    try:
        return str(client.detect(blob, "image/jpeg")["label"])
    except BackendError as error:
        return error.code


@pytest.mark.parametrize("first", [BUSY, DIED, HUNG, GONE], ids=["busy", "died", "hung", "gone"])
def test_what_passes_by_itself_is_asked_again_once(serve: Serve, first: Answer) -> None:
    server = serve(first)
    assert ask(client(server)) == "Fake"
    assert [body for _, _, body in server.asked] == [b"photo"] * 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (BUSY, "backend_busy"),
        (DIED, "backend_died"),
        (HUNG, "backend_died"),
        (GONE, "backend_unreachable"),
    ],
)
def test_but_not_a_third_time(serve: Serve, answer: Answer, code: str) -> None:
    server = serve(answer, answer, answer)
    assert ask(client(server)) == code
    assert len(server.asked) == 2


def test_a_photo_that_nobody_waits_for_any_more_is_not_sent(serve: Serve) -> None:
    server = serve()
    assert ask(client(server, timeout=0)) == "backend_timeout"
    assert server.asked == []


def test_the_detectors_own_errors_are_final(serve: Serve) -> None:
    server = serve(OURS)
    assert ask(client(server)) == "internal_error"
    assert len(server.asked) == 1


def test_retry_after_is_honoured_within_reason(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("frontend.client.time.sleep", pauses.append)
    for header in ("3", "86400", "soon"):
        ask(client(serve((503, {}, {"Retry-After": header}))))
    first, second, third = (seconds for seconds in pauses if seconds)  # 0: the server's own
    assert first == 3
    assert second == 5
    assert 0.01 <= third <= 0.02


def test_a_second_try_never_exceeds_the_time_limit(serve: Serve) -> None:
    server = serve((503, {}, {"Retry-After": "4"}))
    assert ask(client(server, timeout=3)) == "backend_busy"
    assert len(server.asked) == 1


def test_after_a_worker_died_its_photos_are_tried_one_at_a_time(serve: Serve) -> None:
    """One of them may have killed it, and would take the others of its batch along again."""
    server = serve(*[DIED] * 5)
    server.seconds = 0.5  # all five are there before the first is answered
    shared, answers = client(server), []
    threads = [threading.Thread(target=lambda: answers.append(ask(shared))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["Fake"] * 5
    assert server.most_at_once == 1


def test_the_requests_id_goes_along(serve: Serve) -> None:
    server = serve(BUSY)
    token = request_id.set("browser-0001")
    ask(client(server))
    request_id.reset(token)
    assert [found for _, found, _ in server.asked] == ["browser-0001"] * 2


def test_the_switch_moves_new_requests_to_another_server(serve: Serve, tmp_path: Path) -> None:
    old, new = serve(), serve()
    switch = tmp_path / "backend.json"
    page = client(old, switch=switch)
    assert ask(page) == "Fake"
    switch.write_text(json.dumps({"torchserve": new.url, "management": new.url}))
    assert [ask(page), ask(page)] == ["Fake", "Fake"]
    switch.unlink()
    assert ask(page) == "Fake"
    assert (len(old.asked), len(new.asked)) == (1, 3)


def test_while_the_service_stops_nothing_new_is_begun(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    switch = tmp_path / "backend.json"
    switch.write_text(json.dumps({"stopping": True}))
    with pytest.raises(BackendError) as refused:
        client(server, switch=switch).detect(b"photo", "image/jpeg")
    assert (refused.value.code, refused.value.status) == ("stopping", 503)
    assert refused.value.retry_after
    assert server.asked == []


def test_a_request_whose_server_has_gone_meanwhile_is_answered_by_the_new_one(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = serve(GONE), serve()
    switch = tmp_path / "backend.json"
    text = json.dumps({"torchserve": new.url, "management": new.url})
    monkeypatch.setattr("frontend.client.time.sleep", lambda seconds: switch.write_text(text))
    assert ask(client(old, switch=switch)) == "Fake"
    assert (len(old.asked), len(new.asked)) == (1, 1)
