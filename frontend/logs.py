"""One line of JSON for each request, with an id that goes with it to the worker and back.

A line says what happened and how long it took, never what was sent: no path, no file name, no
header, and of an exception the type and the place but not its text, which may quote the request.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import time
import traceback
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from flask import Flask, Response, g, request

ID_HEADER = "X-Request-ID"
MAX_BYTES = 20 * 2**20  # of one file; five older ones are kept
request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that this thread answers; empty outside of one."""

PROBES = ("/healthz", "/readyz")  # asked every few seconds, so only their failures are logged

log = logging.getLogger("deepfake.page")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; ``extra={"fields": {...}}`` becomes fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.msg if record.exc_info else record.getMessage(),
        }
        if found := request_id.get():
            line["request_id"] = found
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        return json.dumps(line)


def register(app: Flask) -> None:
    """Log the requests of ``app``: to LOG_FILE, rotated, or where there is none to stderr."""
    file = app.config.get("LOG_FILE")
    handler: logging.Handler = (
        logging.handlers.RotatingFileHandler(str(file), maxBytes=MAX_BYTES, backupCount=5)
        if file
        else logging.StreamHandler()
    )
    handler.setFormatter(JsonFormatter())
    for logger in (log, app.logger):
        for old in logger.handlers:
            old.close()
        logger.handlers[:] = [handler]
        logger.propagate = False
    log.setLevel(logging.INFO)
    app.before_request(_begin)
    app.after_request(_end)


def well_formed(text: str | None) -> bool:
    """Whether a client's id may be passed on and logged: it cannot be used to forge a line."""
    return text is not None and re.fullmatch(r"[A-Za-z0-9._-]{8,64}", text) is not None


def _begin() -> None:
    given = request.headers.get(ID_HEADER)
    request_id.set(str(given) if well_formed(given) else uuid.uuid4().hex)
    g.started = time.perf_counter()


def _end(response: Response) -> Response:
    response.headers[ID_HEADER] = request_id.get()
    route = request.url_rule.rule if request.url_rule else None
    if route in PROBES and response.status_code < 400:
        return response
    fields = {
        "route": route,
        "method": request.method if route else None,  # of an unknown route it may be anything
        "status": response.status_code,
        "code": g.get("error_code"),
        "ms": round(1000 * (time.perf_counter() - g.started), 1),
    }
    log.info("request", extra={"fields": fields})
    return response
