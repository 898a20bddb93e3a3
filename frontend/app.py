"""The Flask application: ``gunicorn "frontend.app:create_app()"``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request, Response

from frontend import errors, logs, views
from frontend.client import Client

DEFAULTS: dict[str, Any] = {
    "TORCHSERVE_URL": "http://127.0.0.1:8080",
    "MANAGEMENT_URL": "http://127.0.0.1:8081",
    "MODEL_NAME": "deepfake",
    "TIMEOUT": 60,  # seconds
    "BACKEND_FILE": None,  # addresses that win over the two above; see deploy/supervisor.py
    "LOG_FILE": None,  # None: standard error
    # A photo may have 20 MB; the rest is for the multipart frame around it.
    "MAX_CONTENT_LENGTH": 21 * 1024 * 1024,
}

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
}


class MemoryRequest(Request):
    """A request whose uploads stay in memory, whatever their size."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        # Werkzeug writes files over 500 kB to the disk; people's photos must not end up there.
        # MAX_CONTENT_LENGTH bounds the memory.
        return io.BytesIO()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application, configured by ``DEFAULTS``, the environment and ``config``.

    Args:
        config: values that win over the environment's, where TIMEOUT is ``DEEPFAKE_TIMEOUT``
            and so on.
    """
    app = Flask(__name__)
    app.request_class = MemoryRequest
    app.config.from_mapping(DEFAULTS)
    app.config.from_prefixed_env("DEEPFAKE")
    app.config.from_mapping(config)
    app.extensions["backend"] = Client(
        str(app.config["TORCHSERVE_URL"]),
        str(app.config["MANAGEMENT_URL"]),
        str(app.config["MODEL_NAME"]),
        float(app.config["TIMEOUT"]),
        Path(app.config["BACKEND_FILE"]) if app.config["BACKEND_FILE"] else None,
    )
    logs.register(app)  # first, so that every answer has its id
    app.register_blueprint(views.blueprint)
    errors.register(app)
    app.after_request(_add_headers)
    return app


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response
