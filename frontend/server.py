"""How gunicorn runs the page: ``gunicorn --config python:frontend.server ...``."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.util import write_error
from gunicorn.workers.gthread import ThreadWorker

# Settings that gunicorn reads from this module.
worker_class = "frontend.server.Worker"
threads = 64  # eight hold a photo, the others wait or answer probes: frontend/slots.py
control_socket_disable = True
keepalive = 5  # seconds

SECRET = "DEEPFAKE_SECRET_KEY"
STALL = float(os.environ.get("DEEPFAKE_STALL", 10))  # seconds without a byte
HEADERS = float(os.environ.get("DEEPFAKE_HEADERS", 10))  # seconds for a request's headers
UPLOAD = float(os.environ.get("DEEPFAKE_UPLOAD", 60))  # seconds for the rest of it


def on_starting(server: Any) -> None:
    """Before the workers are made: they inherit one secret, if none is configured."""
    os.environ[SECRET] = os.environ.get(SECRET) or secrets.token_hex(32)


class TimedSocket:
    """A connection whose client has to keep on sending, and to be done in time.

    gunicorn waits for the next byte without end, and a thread waits with it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.await_headers()

    def await_headers(self) -> None:
        """A client that is too slow now is treated as one that has gone."""
        self.late = self._has_headers = False
        self._deadline = time.monotonic() + HEADERS

    def await_body(self) -> None:
        """From now on there is somebody who can tell the client that it is too slow."""
        self._has_headers = True
        self._deadline = time.monotonic() + UPLOAD

    def recv(self, *arguments: Any) -> bytes:
        """As a socket's; TimeoutError, or no bytes before there is a request, when it is late."""
        left = min(STALL, self._deadline - time.monotonic())
        if left > 0 and not self.late:
            self._sock.settimeout(left)
            with contextlib.suppress(TimeoutError):
                return self._sock.recv(*arguments)
        self.late = True
        if self._has_headers:
            raise TimeoutError("the client sends too slowly")
        return b""

    def sendall(self, *arguments: Any) -> None:
        """As a socket's, for a client that takes the answer within the time of an upload."""
        self._sock.settimeout(UPLOAD)
        try:
            self._sock.sendall(*arguments)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client reads too slowly") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, for clients that may be slow or curious."""

    def handle(self, conn: Any) -> Any:
        """Read a request and answer it."""
        if isinstance(conn.sock, TimedSocket):
            conn.sock.await_headers()  # the next one on a connection that was kept
        else:
            conn.sock = TimedSocket(conn.sock)
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose headers have been read."""
        conn.sock.await_body()
        more = super().handle_request(req, conn)
        return more and not conn.sock.late  # else gunicorn would wait for the rest of the body

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is not HTTP; gunicorn's own way puts the client's text in answer and log."""
        status, reason = 400, "Bad Request"
        if isinstance(exc, LimitRequestLine | LimitRequestHeaders):
            status, reason = 431, "Request Header Fields Too Large"
        self.log.warning("a request that is not HTTP: %s", type(exc).__name__)
        try:
            write_error(client, status, reason, "")
        except OSError:
            self.log.debug("and its client has gone")
