"""Whatever the request: an answer that is nobody's fault but its own, from the same worker."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.conftest import Service, worker
from tests.fuzz import examples, files
from tests.uploads.case import encode, portrait

GOOD = encode(portrait(), "PNG")

# Hypothesis's own, when it shows a file that failed.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture(scope="module", autouse=True)
def the_worker_survives(service: Service) -> Iterator[None]:
    before = worker(service).pid
    yield
    assert worker(service).pid == before, "the worker died"
    assert requests.post(service.url, data=GOOD, timeout=60).status_code == 200


@examples(25)
@given(blob=files(), raw=st.booleans())
def test_any_file_gets_a_typed_answer(service: Service, blob: bytes, raw: bool) -> None:
    for url in (service.url, f"{service.page}/api/detect"):
        body: dict[str, Any] = {"data": blob} if raw else {"files": {"image": ("photo", blob)}}
        answer = requests.post(url, timeout=60, **body)
        assert answer.status_code < 500, answer.text
        found = answer.json()
        assert "label" in found or found["error"]["status"] == answer.status_code


token = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
value = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
NAMES = ("Content-Type", "X-Crops", "X-Request-ID", "Accept", "Content-Encoding", "Range", "Origin")
TYPES = (
    *("application/json", "multipart/form-data; boundary=x", "image/jpeg", "text/plain"),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/mixed; boundary=x"),
)
headers = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.sampled_from(TYPES), value), max_size=4
)
paths = st.one_of(
    st.just(""), token.map(lambda text: "/" + text), token.map(lambda text: "?" + text)
)
bodies = st.one_of(
    files(),
    files().map(lambda blob: b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + blob),
    st.text(max_size=50).map(str.encode),
    st.sampled_from((b"{}", b'{"image": null}', b"[]", b"--x--", b"--x\r\n\r\n\r\n--x--")),
)


@examples(40)
@given(
    method=st.sampled_from(("POST", "PUT", "GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE")),
    path=paths,
    fields=headers,
    body=bodies,
)
def test_any_request_gets_an_answer(
    service: Service, method: str, path: str, fields: dict[str, str], body: bytes
) -> None:
    # What is on the way to the worker is fuzzed; the management API is not published.
    for url in (service.url, f"{service.page}/api/detect", service.page):
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.netloc, timeout=60)
        try:
            connection.request(method, where.path + path, body, fields)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        # TorchServe's own parser of forms calls a bad one its own error; the page sends it none.
        own = url == service.url and b'"ErrorDataDecoderException"' in text
        assert answer.status < 500 or own, (url, answer.status, text[:300])
