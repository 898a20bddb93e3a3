"""API keys: who may use the JSON route, and the command that makes and revokes them.

The file holds a SHA-256 of each key, never a key: a key is 32 random bytes, so its hash cannot be
searched for, and needs no salt and no slow function, as a password's would.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import hmac
import json
import os
import secrets
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

PREFIX = "dfk_"  # lets people and secret scanners recognise one


class KeyFileError(Exception):
    """The key file is missing or not one of ours; the message says which and what to do."""


@dataclass(frozen=True)
class Key:
    """One line of the key file.

    Attributes:
        name: whose it is; unique.
        sha256: of the key, hexadecimal.
        created: day, ISO 8601, UTC.
        revoked: day, or None while it is good.
    """

    name: str
    sha256: str
    created: str
    revoked: str | None = None


def digest(key: str) -> str:
    """SHA-256 of a key, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read(path: Path) -> list[Key]:
    """The keys of a file; KeyFileError when it cannot be read."""
    try:
        return [Key(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is damaged; restore it or make new keys.") from error


def write(path: Path, keys: list[Key]) -> None:
    """Replace the file in one step; only its owner may read it."""
    text = json.dumps([asdict(key) for key in keys], indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


class Keys:
    """The keys of a file, which is read again whenever it has changed: a revoked key is refused
    at once.

    Args:
        path: made by ``python -m frontend.keys``; KeyFileError if it cannot be read now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = self._look()  # first: what is revoked between the two is read again
        self._keys = read(path)

    def find(self, key: str) -> Key | None:
        """Whose key this is, revoked or not, or None.

        While the file cannot be read nobody has a key: letting in those it named before would
        keep a revoked one alive.
        """
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                try:
                    self._keys = read(self._path)
                except KeyFileError:
                    self._keys = []
                self._stamp = stamp
            keys = self._keys
        wanted = digest(key)
        return next((k for k in keys if hmac.compare_digest(k.sha256, wanted)), None)

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def add(path: Path, name: str) -> str:
    """Make a key and record its hash; the key itself, which is nowhere kept."""
    keys = read(path) if path.exists() else []
    if any(key.name == name for key in keys):
        raise KeyFileError(f"there is a key named {name!r} already; choose another name.")
    key = PREFIX + secrets.token_urlsafe(32)
    write(path, [*keys, Key(name, digest(key), _today())])
    return key


def revoke(path: Path, name: str) -> None:
    """Mark a key as revoked; KeyFileError when there is none of that name."""
    keys = read(path)
    if all(key.name != name for key in keys):
        raise KeyFileError(f"there is no key named {name!r}.")
    gone = [
        Key(k.name, k.sha256, k.created, k.revoked or _today()) if k.name == name else k
        for k in keys
    ]
    write(path, gone)


def listing(path: Path) -> str:
    """One line for each key: its name, its day and whether it is good."""
    return "\n".join(
        f"{k.name}\tmade {k.created}\t{f'revoked {k.revoked}' if k.revoked else 'good'}"
        for k in read(path)
    )


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m frontend.keys",
        description="API keys for programs that use the page's JSON route. The page asks for them "
        "when DEEPFAKE_API_KEYS names the file; it sees changes at once.",
    )
    parser.add_argument("--file", type=Path, default=Path("keys.json"), help="default: keys.json")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, words in (
        ("add", "make a key and print it, this once"),
        ("revoke", "refuse a key from now on"),
    ):
        actions.add_parser(action, help=words).add_argument("name", help="whose key it is")
    actions.add_parser("list", help="the names of the keys, and which are revoked")
    return parser.parse_args()


def main() -> int:
    opt = arguments()
    try:
        if opt.action == "add":
            print(add(opt.file, opt.name))
        elif opt.action == "revoke":
            revoke(opt.file, opt.name)
            print(f"revoked: {opt.name}")
        else:
            print(listing(opt.file))
    except (KeyFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
