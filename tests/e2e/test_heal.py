"""A worker that dies costs nobody an answer; `make test-faults` breaks everything else."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.e2e.conftest import ROOT, Service, worker

PHOTO = (ROOT / "tests" / "fixtures" / "t2i_0010.jpg").read_bytes()


def test_photos_whose_worker_is_killed_are_judged_by_the_next_one(service: Service) -> None:
    killed = threading.Event()

    def ask(_: int) -> list[int]:
        """Photo after photo, the last one asked for once the worker is gone."""
        answers, last = [], False
        while not last:
            last = killed.is_set()
            answer = requests.post(f"{service.page}/api/detect", data=PHOTO, timeout=90)
            answers.append(answer.status_code)
        return answers

    def ready() -> bool:
        return requests.get(f"{service.page}/readyz", timeout=10).ok

    old = worker(service).pid
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        time.sleep(1)
        os.kill(old, signal.SIGKILL)
        try:
            deadline = time.monotonic() + 60
            while ready():  # it says so while nobody can judge a photo
                assert time.monotonic() < deadline, "it never said that it was not ready"
                time.sleep(0.05)
        finally:
            killed.set()
        assert requests.get(f"{service.page}/healthz", timeout=10).ok
        answers = [status for one in asking for status in one.result()]
    assert len(answers) > 8
    assert set(answers) == {200}
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ready()
    assert worker(service).pid != old
