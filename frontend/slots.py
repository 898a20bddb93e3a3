"""How many photos the page holds at a time; the others wait outside, before their body is read.

A thread that waits for a slot costs next to nothing, so there are many more threads than slots
(frontend/server.py): /healthz and /readyz are answered however many people wait.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

from flask import Flask, g, request

from frontend.errors import BackendError

RETRY_AFTER = 5  # seconds
waited: ContextVar[float] = ContextVar("waited", default=0.0)
"""Seconds that this request has waited, which are taken off its time for an answer."""


def register(app: Flask) -> None:
    """Give out PHOTOS slots to POSTs, for which each waits SLOT_WAIT seconds at most."""
    slots = threading.BoundedSemaphore(int(app.config["PHOTOS"]))

    def take() -> None:
        waited.set(0.0)
        if request.method != "POST" or request.routing_exception:
            return
        began = time.monotonic()
        if not slots.acquire(timeout=float(app.config["SLOT_WAIT"])):
            raise BackendError("backend_busy", "Too many photos are waiting.", 503, RETRY_AFTER)
        g.has_slot = True
        waited.set(time.monotonic() - began)

    def give_back(error: BaseException | None = None) -> None:
        if g.pop("has_slot", False):
            slots.release()

    app.before_request(take)
    app.teardown_request(give_back)
