"""Clients that go on asking while something breaks, and what became of each request."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]
PHOTO = (ROOT / "tests" / "fixtures" / "t2i_0010.jpg").read_bytes()
FIGURES = ROOT / "build" / "faults.jsonl"
LIMIT = 65.0  # seconds; the page promises an answer within 60


@dataclass(frozen=True)
class Outcome:
    """How one request ended: its status and error code, or ``status`` 0 for no answer."""

    begun: float
    ended: float
    status: int
    code: str
    body: dict[str, Any]
    retry_after: str | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def ask(url: str, blob: bytes = PHOTO, session: requests.Session | None = None) -> Outcome:
    """One request, to its end."""
    begun = time.monotonic()
    try:
        answer = (session or requests).post(url, data=blob, timeout=LIMIT + 30)
    except requests.RequestException as error:
        return Outcome(begun, time.monotonic(), 0, type(error).__name__, {})
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        body = {}
    code = body.get("error", {}).get("code", "") if isinstance(body, dict) else ""
    after = answer.headers.get("Retry-After")
    return Outcome(begun, time.monotonic(), answer.status_code, code, body, after)


class Load:
    """So many clients, each asking again as soon as it is answered, within the ``with`` block."""

    def __init__(self, url: str, clients: int = 4, pause: float = 0.0) -> None:
        self.url, self.pause = url, pause
        self.outcomes: list[Outcome] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def _client(self) -> None:
        while not self._over.is_set():
            self.outcomes.append(ask(self.url))
            if self.outcomes[-1].status != 200:
                time.sleep(0.2)
            time.sleep(self.pause)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.until_answered(time.monotonic())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def until_answered(self, since: float, patience: float = 180.0) -> float:
        """Seconds from ``since`` to the first verdict on a photo that was sent after it."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            ended = [o.ended for o in list(self.outcomes) if o.status == 200 and o.begun > since]
            if ended:
                return min(ended) - since
            time.sleep(0.05)
        raise AssertionError(f"no verdict for {patience} s: {self.counts()}")

    def counts(self) -> dict[str, int]:
        """How many requests ended how."""
        return dict(Counter(o.code or str(o.status) for o in list(self.outcomes)))

    def check(self, *allowed: str) -> None:
        """Every request ended within its time, in a verdict or one of these typed errors."""
        assert self.outcomes
        for outcome in self.outcomes:
            assert outcome.status == 200 or outcome.code in allowed, (outcome, self.counts())
            assert outcome.status, outcome
            assert outcome.seconds < LIMIT, outcome


def record(fault: str, load: Load, **figures: object) -> None:
    """Print what was seen, and keep it for docs/RELIABILITY.md."""
    slowest = max(outcome.seconds for outcome in load.outcomes)
    line = {
        "fault": fault,
        "requests": len(load.outcomes),
        "ended": load.counts(),
        "slowest_s": round(slowest, 1),
        **{name: round(v, 1) if isinstance(v, float) else v for name, v in figures.items()},
    }
    print(json.dumps(line), flush=True)
    FIGURES.parent.mkdir(exist_ok=True)
    with FIGURES.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
