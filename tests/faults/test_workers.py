"""Workers that die, hang, run out of memory or cannot live; a TorchServe and a page that die."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import requests
from PIL import Image

from tests.e2e.conftest import Service
from tests.faults.conftest import Start, ready, wait_until, workers
from tests.faults.load import PHOTO, Load, ask, record

MAY_FAIL = ("backend_died", "backend_busy", "backend_unreachable")  # typed, and to be asked again


def api(service: Service) -> str:
    return f"{service.page}/api/detect"


def pid(service: Service, name: str) -> int:
    """Of the page or the TorchServe that runs now."""
    found = json.loads((service.logs / "serve.json").read_text(encoding="utf-8"))[name]
    return int(found[0] if isinstance(found, list) else found)


def test_a_worker_killed_in_the_middle_of_a_batch_costs_no_answer(shared: Service) -> None:
    with Load(api(shared), clients=6) as load:
        killed, (worker,) = time.monotonic(), workers(shared)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not ready(shared), patience=5)
        assert requests.get(f"{shared.page}/healthz", timeout=5).ok, "alive, though not ready"
        recovery = load.until_answered(killed)
        wait_until(lambda: ready(shared))
    load.check()
    record("worker killed (-9)", load, recovery_s=recovery)


def test_a_worker_that_hangs_is_replaced_and_costs_no_answer(shared: Service) -> None:
    with Load(api(shared), clients=6) as load:
        stopped, (worker,) = time.monotonic(), workers(shared)
        os.kill(worker, signal.SIGSTOP)
        recovery = load.until_answered(stopped)
        wait_until(lambda: ready(shared))
    load.check(*MAY_FAIL)
    assert not psutil.pid_exists(worker), "the hung process was ended"
    record("worker hangs (SIGSTOP), responseTimeout 15 s", load, recovery_s=recovery)


def test_a_worker_without_memory_says_so_or_is_replaced(shared: Service) -> None:
    """Its address space is limited (RLIMIT_AS) to what it has and 150 MB more."""
    buffer = io.BytesIO()
    Image.new("RGBA", (7000, 7000)).save(buffer, "PNG", compress_level=1)
    (worker,) = workers(shared)
    with Load(api(shared), clients=3) as load:
        limit = psutil.Process(worker).memory_info().vms + 150 * 2**20
        resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
        began = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            large = list(pool.map(lambda _: ask(api(shared), buffer.getvalue()), range(3)))
        recovery = load.until_answered(began)
    # No_face: the worker died of it, and the next one, which has no limit, could judge it.
    assert {o.code for o in large} <= {"out_of_memory", "no_face", "backend_died"}, large
    load.check("out_of_memory", *MAY_FAIL)
    record(
        "worker out of memory (RLIMIT_AS)",
        load,
        recovery_s=recovery,
        large=[o.code for o in large],
        worker_died=workers(shared) != [worker],
    )
    for left in set(workers(shared)) & {worker}:
        os.kill(left, signal.SIGKILL)  # the limit must not outlive this test
    wait_until(lambda: ready(shared) and workers(shared) != [worker])


def test_a_full_queue_is_refused_with_a_time_to_come_back(shared: Service) -> None:
    with Load(shared.url, clients=32) as flood, Load(api(shared), clients=4) as load:
        time.sleep(8)
    refused = sum(outcome.status == 503 for outcome in flood.outcomes)
    assert refused, "the queue was never full"
    load.check("backend_busy")
    assert {outcome.status for outcome in flood.outcomes} == {200, 503}
    record("queue full (32 clients, 20 places)", load, refused_by_torchserve=refused)
    busy = [o for o in load.outcomes if o.code == "backend_busy"]
    assert all((outcome.status, outcome.retry_after) == (503, "2") for outcome in busy)


def test_clients_that_leave_disturb_nobody(shared: Service) -> None:
    before = workers(shared)
    with Load(api(shared), clients=3) as load:
        for url in [api(shared), shared.url] * 10:
            with contextlib.suppress(requests.RequestException):
                requests.post(url, data=PHOTO, timeout=0.05)
        load.until_answered(time.monotonic())
    load.check()
    assert workers(shared) == before
    record("20 clients gone before their answer", load)


def test_torchserve_killed_under_the_page_is_started_again(shared: Service) -> None:
    old = pid(shared, "torchserve")
    with Load(api(shared), clients=4) as load:
        killed = time.monotonic()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: not ready(shared), patience=5)
        recovery = load.until_answered(killed)
        wait_until(lambda: ready(shared))
    load.check(*MAY_FAIL)
    assert pid(shared, "torchserve") != old
    record("TorchServe killed (-9)", load, recovery_s=recovery)


def test_torchserve_that_answers_no_more_is_started_again(shared: Service) -> None:
    old = pid(shared, "torchserve")
    with Load(api(shared), clients=4) as load:
        stopped = time.monotonic()
        os.kill(old, signal.SIGSTOP)
        recovery = load.until_answered(stopped)
        wait_until(lambda: ready(shared))
    load.check("backend_timeout", *MAY_FAIL)
    assert not psutil.pid_exists(old)
    record("TorchServe hangs (SIGSTOP)", load, recovery_s=recovery)


def test_a_page_that_was_killed_is_started_again(shared: Service) -> None:
    old = pid(shared, "page")
    with Load(api(shared), clients=4) as load:
        killed = time.monotonic()
        for child in psutil.Process(old).children():
            child.kill()
        os.kill(old, signal.SIGKILL)
        recovery = load.until_answered(killed)
    lost = [o for o in load.outcomes if o.status == 0]
    assert all(o.ended - killed < recovery + 1 for o in lost), "only while there was no page"
    record("page killed (-9)", load, recovery_s=recovery)


def test_a_worker_that_was_given_up_is_brought_back(launch: Start) -> None:
    """Killed until TorchServe's retry window (here 10 s) is over; it would never try again."""
    service = launch()
    old = pid(service, "torchserve")
    with Load(api(service), clients=2) as load:
        began = time.monotonic()
        while pid(service, "torchserve") == old:
            for worker in workers(service):
                if psutil.pid_exists(worker):
                    os.kill(worker, signal.SIGKILL)
            assert time.monotonic() - began < 180, "it was never given up, or nobody noticed"
            time.sleep(0.2)
        given_up = time.monotonic()
        recovery = load.until_answered(given_up)
        wait_until(lambda: ready(service))
    load.check("backend_timeout", *MAY_FAIL)
    record("worker given up by TorchServe", load, recovery_s=recovery)
