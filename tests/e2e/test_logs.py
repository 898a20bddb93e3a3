"""The logs of the running service: JSON, one id from browser to worker, nothing of the client."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import requests

from tests.e2e.conftest import ROOT, Service

PHOTO = (ROOT / "tests" / "fixtures" / "t2i_0010.jpg").read_bytes()
MARK = "CLIENT-TEXT-93b7"


def lines(file: Path) -> list[dict[str, Any]]:
    """Every line is a JSON document with the time."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all("time" in line for line in found)
    return found


def line_of(file: Path, key: str, value: str) -> dict[str, Any]:
    """The request with this id; TorchServe writes a moment after it has answered."""
    for _ in range(50):
        found = [line for line in lines(file) if line.get(key) == value]
        if found:
            return found[-1]
        time.sleep(0.1)
    raise AssertionError(f"{file.name} has no {key} {value}")


def test_one_id_goes_from_the_browser_through_the_page_to_the_worker(service: Service) -> None:
    ours = f"browser-{uuid.uuid4().hex[:8]}"
    given = requests.post(
        f"{service.page}/api/detect", data=PHOTO, headers={"X-Request-ID": ours}, timeout=60
    )
    made = requests.post(f"{service.page}/api/detect", data=PHOTO[:5000], timeout=60)
    assert given.headers["X-Request-ID"] == ours
    for answer in (given, made):
        identity = answer.headers["X-Request-ID"]
        page = line_of(service.logs / "page.log", "request_id", identity)
        worker = line_of(service.logs / "requests.log", "request_id", identity)
        assert page["status"] == worker["status"] == answer.status_code
        assert page["code"] == worker["code"]
        assert page["ms"] >= worker["ms"] > 0


def test_torchserves_own_id_finds_the_line_of_who_asks_it_directly(service: Service) -> None:
    answer = requests.post(service.url, data=PHOTO, timeout=60)
    identity = answer.headers["X-Request-ID"]
    assert line_of(service.logs / "requests.log", "torchserve_id", identity)["status"] == 200


def test_nothing_of_the_client_is_in_any_log(service: Service) -> None:
    root = service.url.partition("/predictions")[0]
    for url in (root, service.page):
        requests.get(f"{url}/{MARK}?{MARK}", timeout=10)
        requests.request(MARK, url, timeout=10)
        requests.post(f"{url}/predictions/{MARK}", data=MARK, timeout=10)
    headers = {"User-Agent": MARK, "X-Request-ID": f"{MARK} \t[METRICS]", "X-Crops": MARK}
    for url in (service.url, f"{service.page}/api/detect"):
        requests.post(url, data=MARK.encode(), headers=headers, timeout=60)
        requests.post(url, files={"image": (f"{MARK}.jpg", PHOTO)}, headers=headers, timeout=60)
        requests.post(url, json={"image": MARK, MARK: MARK}, timeout=60)
    time.sleep(1)
    written = {p.name: p.read_text(encoding="utf-8") for p in service.logs.glob("*.log")}
    assert {"page.log", "requests.log", "torchserve.log", "access.log"} <= written.keys()
    assert [name for name, text in written.items() if MARK in text] == []
    for name in written.keys() - {"console.log"}:
        assert lines(service.logs / name), f"{name} is empty"
