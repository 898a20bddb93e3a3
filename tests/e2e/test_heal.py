"""A worker that dies costs nobody an answer; `make test-faults` breaks everything else."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.e2e.conftest import ROOT, Service, worker

PHOTO = (ROOT / "tests" / "fixtures" / "t2i_0010.jpg").read_bytes()


def test_photos_whose_worker_is_killed_are_judged_by_the_next_one(service: Service) -> None:
    def ask(_: int) -> int:
        return requests.post(f"{service.page}/api/detect", data=PHOTO, timeout=90).status_code

    old = worker(service).pid
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(8))
        time.sleep(0.3)
        os.kill(old, signal.SIGKILL)
        while requests.get(f"{service.page}/readyz", timeout=10).ok:
            time.sleep(0.05)  # it says so while nobody can judge a photo
        assert requests.get(f"{service.page}/healthz", timeout=10).ok
        assert list(answers) == [200] * 8
    assert requests.get(f"{service.page}/readyz", timeout=10).ok
    assert worker(service).pid != old
