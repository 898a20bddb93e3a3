"""Only so many photos are held at a time, and nobody waits for a turn without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from frontend.app import create_app
from tests.unit.test_client import OURS, Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


Page = Callable[..., Flask]


@pytest.fixture
def page(server: Server) -> Page:
    def make(**settings: object) -> Flask:
        addresses = {"TORCHSERVE_URL": server.url, "MANAGEMENT_URL": server.url}
        return create_app({**addresses, "PHOTOS": 1, "SLOT_WAIT": 0.2, **settings})

    return make


def send(app: Flask) -> tuple[int, str | None]:
    answer = app.test_client().post("/api/detect", data=b"photo")
    return answer.status_code, answer.headers.get("Retry-After")


def test_who_finds_no_place_is_told_when_to_come_back(server: Server, page: Page) -> None:
    server.seconds, app = 3.0, page()
    first: list[tuple[int, str | None]] = []
    thread = threading.Thread(target=lambda: first.append(send(app)))
    thread.start()
    while not server.asked:
        time.sleep(0.01)
    assert send(app) == (503, "5")
    assert app.test_client().get("/healthz").status_code == 200, "probes need no place"
    thread.join()
    assert first == [(200, None)]
    assert send(app) == (200, None)


def test_a_place_is_given_back_whatever_happens(server: Server, page: Page) -> None:
    app = page()
    server.answers = [OURS]
    assert send(app)[0] == 500
    assert app.test_client().post("/api/detect").status_code == 400  # no photo
    assert app.test_client().post("/nothing").status_code == 404
    assert send(app)[0] == 200


def test_waiting_for_a_place_is_part_of_the_time_for_an_answer(server: Server, page: Page) -> None:
    server.seconds, app, codes = 4.0, page(SLOT_WAIT=9, TIMEOUT=6), []
    threads = [threading.Thread(target=lambda: codes.append(send(app)[0])) for _ in range(2)]
    threads[0].start()
    while not server.asked:
        time.sleep(0.01)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert codes == [200, 504]
