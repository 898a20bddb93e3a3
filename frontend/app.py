"""The Flask application: ``gunicorn "frontend.app:create_app()"``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request

from frontend import errors, guard, logs, slots, text, tokens, views
from frontend.client import Client

DEFAULTS: dict[str, Any] = {
    "TORCHSERVE_URL": "http://127.0.0.1:8080",
    # Empty where the page cannot reach it: /readyz then says what TorchServe's own /ping does.
    "MANAGEMENT_URL": "http://127.0.0.1:8081",
    "MODEL_NAME": "deepfake",
    "TIMEOUT": 60,  # seconds
    "LANGUAGE": "en",  # of the page: a file of frontend/text
    "BACKEND_FILE": None,  # addresses that win over the two above; see deploy/supervisor.py
    "LOG_FILE": None,  # None: standard error
    # So many photos are held at a time; others wait for their turn, SLOT_WAIT seconds at most.
    "PHOTOS": 8,
    "SLOT_WAIT": 30,
    # A photo may have 20 MB; the rest is for the multipart frame around it. As base64 in JSON it
    # may have 15 MB: a third more would be a third more memory for each of PHOTOS.
    "MAX_CONTENT_LENGTH": 21 * 1024 * 1024,
    # Of fields without a file's name: who sends a photo so is not told that it is too large.
    "MAX_FORM_MEMORY_SIZE": 21 * 1024 * 1024,
    # TorchServe's key_file.json, or a file with its inference token; None: it asks for none.
    "TOKEN_FILE": None,
    # The names under which the page is asked for, without port; a single one may stand without a
    # list around it. Empty: any.
    "HOSTS": ["127.0.0.1", "localhost", "::1"],
    # How many proxies stand before the page, whose X-Forwarded-For can be believed.
    "PROXIES": 0,
    # Keys that the JSON route asks for: a file that `python -m frontend.keys` made. None: none.
    "API_KEYS": None,
    # Photos for each address, and for each key: "60 per minute; 1000 per day". None: any number.
    "RATE": None,
    "KEY_RATE": None,
    # Where they are counted; several processes count together in redis://HOST:6379.
    "RATE_STORAGE": "memory://",
    # Signs the form's token; drawn at random when it is not set.
    "SECRET_KEY": None,
    "SESSION_COOKIE_NAME": "form",
    "SESSION_COOKIE_SAMESITE": "Strict",
    "SESSION_COOKIE_SECURE": False,  # True behind TLS
    "WTF_CSRF_ENABLED": True,
    "WTF_CSRF_TIME_LIMIT": None,  # as long as the browser is open: people leave pages open
    "WTF_CSRF_SSL_STRICT": False,  # guard.py looks at where a form comes from, with and without TLS
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


def _switch(name: str, value: object) -> bool:
    """A setting that is on or off; from the environment it comes as text where it is no JSON."""
    words = {"true": True, "1": True, "false": False, "0": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError(f"{name} is {value!r}; it must be true or false") from None


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application, configured by ``DEFAULTS``, the environment and ``config``.

    Args:
        config: values that win over the environment's, where TIMEOUT is ``DEEPFAKE_TIMEOUT``
            and so on.

    Raises:
        ValueError: a setting cannot be used.
    """
    app = Flask(__name__)
    app.request_class = MemoryRequest
    app.config.from_mapping(DEFAULTS)
    app.config.from_prefixed_env("DEEPFAKE")
    app.config.from_mapping(config)
    for name, default in DEFAULTS.items():
        if isinstance(default, bool):
            app.config[name] = _switch(name, app.config[name])
    text.load(str(app.config["LANGUAGE"]))
    app.extensions["backend"] = Client(
        str(app.config["TORCHSERVE_URL"]),
        str(app.config["MANAGEMENT_URL"]),
        str(app.config["MODEL_NAME"]),
        float(app.config["TIMEOUT"]),
        tokens.from_config(app.config["TOKEN_FILE"], str(app.config["MANAGEMENT_URL"])),
        Path(app.config["BACKEND_FILE"]) if app.config["BACKEND_FILE"] else None,
    )
    logs.register(app)  # first, so that every answer has its id
    guard.register(app)
    slots.register(app)  # of those that may ask; before anything is read of their photos
    guard.register_forms(app)
    app.register_blueprint(views.blueprint)
    errors.register(app)
    return app
