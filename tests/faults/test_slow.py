"""Clients that send slowly or stop sending, and a disk without room for logs."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from frontend import server
from tests.e2e.conftest import Service
from tests.faults.conftest import Start, workers
from tests.faults.load import PHOTO, Load, record


def api(service: Service) -> str:
    return f"{service.page}/api/detect"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    return socket.create_connection((host, int(port)), timeout=90)


HEAD = b"POST /api/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
STALLS = {
    "nothing at all": b"",
    "half a header": HEAD,
    "half a body": HEAD + b"Content-Type: image/jpeg\r\n\r\n" + PHOTO[:1000],
}


@pytest.mark.parametrize("sent", STALLS)
def test_uploads_that_stall_hold_nobody_up(shared: Service, sent: str) -> None:
    """More of them than the page has threads."""
    count = server.threads + 16
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connect(shared.page)) for _ in range(count)]
        for each in stalled:
            each.sendall(STALLS[sent])
        time.sleep(1)
        began = time.monotonic()
        with Load(api(shared), clients=3) as load:
            answered = load.until_answered(began)
        load.check()
        ends = [end_of(each) for each in stalled]
        took = time.monotonic() - began
    # An answer where there was a request to answer, else the connection is closed. Of those that
    # stall in the body all but eight wait for a place first, and may get none.
    refusals = {b"HTTP/1.1 408", b"HTTP/1.1 400", b"HTTP/1.1 503"}
    assert {end for end in ends if end} <= refusals, ends
    record(
        f"{count} uploads stalled after {sent}", load, first_answer_s=answered, all_dropped_s=took
    )


def end_of(connection: socket.socket) -> bytes:
    """The first words of the answer; empty where the connection was closed without one."""
    try:
        return connection.recv(100)[:12]
    except ConnectionError:
        return b""


def test_a_slow_upload_that_goes_on_is_answered(shared: Service) -> None:
    with Load(api(shared), clients=2) as load, connect(shared.page) as slow:
        head = f"POST /api/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(PHOTO)}\r\n"
        slow.sendall(head.encode() + b"Connection: close\r\n\r\n")
        step = len(PHOTO) // 12 + 1
        for start in range(0, len(PHOTO), step):
            slow.sendall(PHOTO[start : start + step])
            time.sleep(0.5)
        answer = slow.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    load.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_for_the_logs_costs_no_answer(launch: Start, small_disk: Path) -> None:
    service = launch(logs=small_disk)
    before = workers(service)
    with Load(api(service), clients=3) as load:
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        full = time.monotonic()
        time.sleep(10)
        assert sum(o.begun > full for o in load.outcomes) > 5
        assert requests.get(f"{service.page}/readyz", timeout=10).ok
        filler.unlink()
        load.until_answered(time.monotonic())
    load.check()
    assert workers(service) == before
    time.sleep(1)
    for name in ("page.log", "requests.log"):
        last = (small_disk / name).read_text(encoding="utf-8", errors="replace").splitlines()[-1]
        assert json.loads(last)["event"] == "request", "it logs again when there is room"
    record("full disk for the logs", load)
