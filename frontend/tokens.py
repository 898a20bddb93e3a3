"""TorchServe's tokens, where it asks for them: held, put on requests, renewed.

A file says which token is good. It is one of two:

- TorchServe's own ``key_file.json``, for a page on the same machine. It holds the API key too, with
  which the page renews a token that has expired, at TorchServe's management address.
- The inference token alone, for a page on another machine: the management address and the API key
  stay where TorchServe is, and something there renews the token and writes the file.

Renewing a token ends the one before it, so several pages share the file: each looks into it again
before it renews.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

REFUSED = 400  # TorchServe's status for a missing, wrong or expired token
PATIENCE = 2.0  # seconds in which whoever renews the token must have written it down
TIMEOUT = 5.0  # seconds


def from_config(file: object, management_url: str) -> Tokens | None:
    """The tokens of the file that the setting TOKEN_FILE names, or None when it names none."""
    return Tokens(Path(str(file)), management_url) if file else None


class Tokens(requests.auth.AuthBase):
    """Puts the right token on each request, and asks once more with a new one when it is refused.

    Args:
        file: ``key_file.json``, or a file with the inference token alone.
        management_url: such as http://127.0.0.1:8081; requests to it get the management token.
    """

    def __init__(self, file: Path, management_url: str) -> None:
        self._file = file
        self._management = management_url.rstrip("/")
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self._sign(request, self._good(self._kind(request)))
        request.register_hook("response", self._again)  # type: ignore[no-untyped-call]
        return request

    def _again(self, response: requests.Response, **options: Any) -> requests.Response:
        """The answer to the same request with a newer token, if this one's was refused."""
        if response.status_code != REFUSED or not _is_refusal(response):
            return response
        request = response.request.copy()
        used = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        token = self._newer(self._kind(request), used)
        if token in (None, used):
            return response
        response.close()
        self._sign(request, token)
        # The adapter itself: it runs no hooks, so there is no third try.
        answer: requests.Response = response.connection.send(request, **options)
        answer.request = request
        return answer

    def _kind(self, request: requests.PreparedRequest) -> str:
        to_management = (request.url or "").startswith(self._management + "/")
        return "management" if to_management else "inference"

    @staticmethod
    def _sign(request: requests.PreparedRequest, token: str | None) -> None:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"

    def _good(self, kind: str) -> str | None:
        """The file's token; renewed before it is used when it is known to have expired."""
        keys = self._read()
        if _expired(keys.get(kind)):
            return self._newer(kind, _key(keys, kind))
        return _key(keys, kind)

    def _newer(self, kind: str, used: str | None) -> str | None:
        """A token other than the one that was refused, or None."""
        with self._lock:  # of several threads one renews, and the others find its token
            keys = self._read()
            fresh = _key(keys, kind)
            if fresh not in (None, used) and not _expired(keys.get(kind)):
                return fresh
            if "API" in keys:
                self._renew(kind, keys)
                return _key(self._read(), kind)
            return self._wait(kind, used)

    def _renew(self, kind: str, keys: dict[str, Any]) -> None:
        self._session.get(
            f"{self._management}/token",
            params={"type": kind},
            headers={"Authorization": f"Bearer {_key(keys, 'API')}"},
            timeout=TIMEOUT,
            allow_redirects=False,
        )

    def _wait(self, kind: str, used: str | None) -> str | None:
        """For a token that somebody else renews, and will have written down in a moment."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            token = _key(self._read(), kind)
            if token not in (None, used):  # None: it is being written
                return token
            time.sleep(0.05)
        return None

    def _read(self) -> dict[str, Any]:
        """The file as TorchServe writes it; empty while it is not there or half written."""
        try:
            text = self._file.read_text(encoding="utf-8").strip()
            if not text.startswith("{"):
                return {"inference": {"key": text}} if text else {}
            keys = json.loads(text)
        except (OSError, ValueError):
            return {}
        return keys if isinstance(keys, dict) else {}


def _key(keys: dict[str, Any], kind: str) -> str | None:
    entry = keys.get(kind)
    return str(entry["key"]) if isinstance(entry, dict) and "key" in entry else None


def _expired(entry: object) -> bool:
    if not isinstance(entry, dict) or "expiration time" not in entry:
        return False
    # Java writes nanoseconds, of which Python reads six digits.
    text = str(entry["expiration time"]).rstrip("Z").partition(".")[0]
    return datetime.fromisoformat(text).replace(tzinfo=UTC) <= datetime.now(UTC)


def _is_refusal(response: requests.Response) -> bool:
    """Whether it is the token that TorchServe did not like."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return False
    return isinstance(answer, dict) and answer.get("type") == "InvalidKeyException"
