"""TorchServe's tokens, where TorchServe itself runs: read, renewed, handed on.

With token authorisation on, TorchServe writes three keys into ``key_file.json`` in its working
directory: one for inference and one for management, which expire, and the API key, which renews
them at the management address. Imports nothing that is slow: a health check uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NAME = "key_file.json"
MARGIN = timedelta(minutes=10)  # of the 60 that a token is good for


def read(file: Path) -> dict[str, Any]:
    """The keys; empty while the file is not there or half written."""
    try:
        keys = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return keys if isinstance(keys, dict) else {}


def token(file: Path, kind: str, port: int, margin: timedelta = timedelta()) -> str | None:
    """A good token, renewed if it expires within ``margin``; None when there is no key file.

    Args:
        file: ``key_file.json``.
        kind: "management" or "inference".
        port: of the management API on this machine.
    """
    keys = read(file)
    if kind not in keys:
        return None
    if _expiry(keys[kind]) - datetime.now(UTC) <= margin:
        renew(keys, kind, port)
        keys = read(file)
    return str(keys[kind]["key"]) if kind in keys else None


def headers(file: Path, port: int) -> dict[str, str]:
    """What a request to the management API needs; empty without token authorisation."""
    found = token(file, "management", port)
    return {"Authorization": f"Bearer {found}"} if found else {}


def renew(keys: dict[str, Any], kind: str, port: int) -> None:
    """Have TorchServe write a new token into the key file; the old one ends at once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    with contextlib.closing(connection):
        bearer = {"Authorization": f"Bearer {keys['API']['key']}"}
        connection.request("GET", f"/token?type={kind}", headers=bearer)
        connection.getresponse().read()


def hand_on(file: Path, target: Path, port: int) -> None:
    """Keep ``target`` the good inference token, for a page in another container.

    Nothing else gets out: with the API key or the management token one could do more than ask.
    """
    with (file.parent / "token.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two checks at once would end each other's token
        found = token(file, "inference", port, MARGIN)
        if not found or _text(target) == found:
            return
        part = target.with_name(f".{target.name}")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as out:
            out.write(found)
        part.replace(target)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _expiry(entry: dict[str, str]) -> datetime:
    # Java writes nanoseconds, of which Python reads six digits.
    text = entry["expiration time"].rstrip("Z").partition(".")[0]
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
