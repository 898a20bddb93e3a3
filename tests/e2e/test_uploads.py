"""A part of the table of uploads over HTTP, and what only HTTP can get wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.e2e.conftest import Service, worker
from tests.uploads import all_cases
from tests.uploads.case import VERDICT, Case, encode, portrait

GOOD = encode(portrait(), "PNG")
MOST_MEMORY = 1500  # MB by which the worker may grow
SMALL = [case for case in all_cases() if len(case.blob) < 2**20]
# Every 12th: of each kind a few. The whole table goes through the library.
CASES = SMALL[::12] + [case for case in all_cases() if len(case.blob) > 20 * 2**20]


@pytest.fixture(scope="module", autouse=True)
def the_worker_survives(service: Service) -> Iterator[None]:
    """All that this file sends is answered by one worker, which does not grow without end."""
    process = worker(service)
    before = process.memory_info().rss / 2**20
    yield
    assert worker(service).pid == process.pid, "the worker died"
    grown = process.memory_info().rss / 2**20 - before
    print(f"the worker grew by {grown:.0f} MB")
    assert grown < MOST_MEMORY
    assert requests.post(service.url, data=GOOD, timeout=60).status_code == 200


def judge(answer: requests.Response, right: frozenset[str]) -> None:
    body = answer.json()
    if answer.status_code == 200:
        assert VERDICT in right, body
        return
    assert answer.status_code < 500, answer.text
    assert body["error"]["status"] == answer.status_code
    assert body["error"]["code"] in right, body


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_upload_gets_its_answer(service: Service, case: Case) -> None:
    """Raw to TorchServe, as a form to the page."""
    judge(requests.post(service.url, data=case.blob, timeout=60), case.right)
    files = {"image": ("photo", case.blob)}
    judge(requests.post(f"{service.page}/api/detect", files=files, timeout=60), case.right)


TYPES = [
    *("", "image/png", "image/heic", "text/html", "application/pdf", "video/mp4", "nonsense"),
    *("a/b; c=d", "image/jpeg; charset=utf-16", "x" * 2000, "application/octet-stream"),
]


@pytest.mark.parametrize("content_type", TYPES, ids=lambda text: text[:20])
def test_a_wrong_content_type_costs_nobody_the_answer(service: Service, content_type: str) -> None:
    for url in (service.url, f"{service.page}/api/detect"):
        answer = requests.post(
            url,
            data=GOOD,
            headers={"Content-Type": content_type} if content_type else {},
            timeout=60,
        )
        assert answer.status_code == 200, (url, answer.text)


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part for part in parts) + b"--" + boundary + b"--"


FIELD = b'Content-Disposition: form-data; name="image"; filename="%s"\r\n\r\n'
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
ODD: dict[str, dict[str, Any]] = {
    "form without an end": {"data": b"--x\r\n" + FIELD % b"a" + GOOD, "headers": MULTIPART},
    "form of nothing": {"data": b"", "headers": MULTIPART},
    "form of another boundary": {
        "data": form(FIELD % b"a" + GOOD, boundary=b"y"),
        "headers": MULTIPART,
    },
    "form without a boundary": {
        "data": form(FIELD % b"a" + GOOD),
        "headers": {"Content-Type": "multipart/form-data"},
    },
    "form with a path as file name": {
        "files": {"image": ("../../../../etc/passwd\0.jpg", GOOD)},
    },
    "form with the photo twice": {"files": [("image", ("a", GOOD)), ("image", ("b", GOOD))]},
    "form of 500 fields": {"files": [(f"f{i}", ("a", b"b")) for i in range(500)]},
    "JSON that is none": {"data": b"{", "headers": {"Content-Type": "application/json"}},
    "JSON of another shape": {"json": [[[[["image"]]]]]},
    "JSON of a number": {"json": {"image": 1e308}},
    "JSON within itself": {
        "data": b"[" * 20_000 + b"]" * 20_000,
        "headers": {"Content-Type": "application/json"},
    },
    "JSON not in UTF-8": {
        "data": b'{"image": "\xff\xfe"}',
        "headers": {"Content-Type": "application/json"},
    },
    "base64 of rubbish": {"json": {"image": base64.b64encode(bytes(99)).decode()}},
    "base64 cut off": {"json": {"image": base64.b64encode(GOOD).decode()[:-3]}},
    "crops as a list": {"json": {"image": base64.b64encode(GOOD).decode(), "crops": []}},
    "crops that nobody knows": {"data": GOOD, "headers": {"X-Crops": "perhaps"}},
    "an id with a line break's code": {
        "data": GOOD,
        "headers": {"X-Request-ID": "%0a%0d[METRICS]"},
    },
    "chunked": {"data": io.BytesIO(GOOD)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_get_an_answer(service: Service, name: str) -> None:
    for url in (service.url, f"{service.page}/api/detect"):
        request = {
            k: io.BytesIO(v.getvalue()) if k == "data" and name == "chunked" else v
            for k, v in ODD[name].items()
        }
        answer = requests.post(url, timeout=60, **request)
        assert answer.status_code < 500, (url, answer.status_code, answer.text[:300])
