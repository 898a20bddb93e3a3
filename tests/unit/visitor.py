"""Whoever asks the page for a verdict; no detector listens behind it.

A request that passes the guard is answered 502 backend_unreachable.
"""

from __future__ import annotations

import io
import re
from typing import Any

from flask.testing import FlaskClient

from frontend.app import create_app
from tests.openapi import SPEC, validate

PASSED = (502, "backend_unreachable")
PHOTO = b"\xff\xd8\xff a photo"


def client(**config: Any) -> FlaskClient:
    """A page before a detector whose port is closed."""
    return create_app({"TORCHSERVE_URL": "http://127.0.0.1:1", **config}).test_client()


def detect(page: FlaskClient, address: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    """Status and code of a photo sent to the JSON route."""
    answer = page.post(
        "/api/detect",
        data=PHOTO,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        environ_overrides={"REMOTE_ADDR": address},
    )
    assert answer.headers["Cache-Control"] == "no-store"
    validate(answer.json, "PageError")
    assert str(answer.status_code) in SPEC["paths"]["/api/detect"]["post"]["responses"]
    assert answer.json["error"]["status"] == answer.status_code
    return answer.status_code, answer.json["error"]["code"]


def token(page: FlaskClient) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.get("/").text)
    assert found
    return found[1]


def form(page: FlaskClient, **fields: Any) -> tuple[int, str]:
    """Status and code of a photo sent with the form."""
    answer = page.post("/", data={"image": (io.BytesIO(PHOTO), "a.jpg"), **fields})
    code = re.search(r"<code>(\w+)</code>", answer.text)
    assert code
    return answer.status_code, code[1]
