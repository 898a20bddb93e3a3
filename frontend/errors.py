"""Every error a visitor can meet: its code, its status and its plain words."""

from __future__ import annotations

from typing import NamedTuple

from flask import Flask, Response, current_app, jsonify, make_response, render_template, request
from werkzeug.exceptions import ClientDisconnected, HTTPException


class Words(NamedTuple):
    """What the page says about an error: a headline, and what to do next."""

    title: str
    advice: str


WORDS = {
    "empty_input": Words("No photo was chosen", "Choose a photo, then press “Examine”."),
    "unsupported_format": Words(
        "This file is not a photo we can read", "Save it as JPEG or PNG and try again."
    ),
    "broken_image": Words(
        "The photo is damaged",
        "Download or copy it again, or open it in an image program and save it anew.",
    ),
    "image_too_small": Words(
        "The photo is too small", "Choose the original photo instead of a thumbnail."
    ),
    "no_face": Words(
        "No face found",
        "If the face is small in the photo, cut the photo down to it; a face turned away, "
        "covered or in the dark is often not found.",
    ),
    "image_too_large": Words(
        "The file is too large", "Make the photo smaller or save it as JPEG: at most 20 MB."
    ),
    "too_many_pixels": Words(
        "The photo has too many pixels", "Make it smaller: at most 50 million pixels."
    ),
    "backend_unreachable": Words(
        "The detector cannot be reached",
        "It may still be starting: try again in a minute. If it stays like this, tell whoever "
        "runs this page.",
    ),
    "backend_timeout": Words(
        "The detector took too long", "Try again in a moment, or with a smaller photo."
    ),
    "backend_busy": Words("The detector is busy", "Try again in a few seconds."),
    "not_found": Words("There is no such page", "Go back to the start and choose a photo."),
    "method_not_allowed": Words("That does not work here", "Use the form below."),
    "wrong_host": Words(
        "This page is not known by that name",
        "Use the address that you were given; whoever runs this page can add names to it.",
    ),
    "cross_site": Words("This came from another site", "Open this page itself, and use its form."),
    "form_expired": Words(
        "The form has expired",
        "Load this page anew and choose the photo again. It needs a cookie, for nothing but the "
        "form.",
    ),
    "too_many_requests": Words("That was a lot of photos", "Wait a moment, then try again."),
    "upload_incomplete": Words(
        "The photo did not arrive", "Check your connection and try again, or with a smaller photo."
    ),
    "bad_request": Words("The request was not understood", "Choose a photo and try again."),
}

OUR_FAULT = Words(
    "Something went wrong on our side",
    "Your photo is not to blame as far as we know. Try again; if it fails again, tell whoever "
    "runs this page.",
)

HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "image_too_large",
}


class FrontendError(Exception):
    """An error with a stable ``code``, one plain sentence and an HTTP ``status``.

    ``retry_after`` is the number of seconds after which trying again makes sense, if known.
    """

    def __init__(
        self, code: str, message: str, status: int, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after

    @property
    def words(self) -> Words:
        """The page's headline and advice."""
        return WORDS.get(self.code, OUR_FAULT)

    def to_json(self) -> dict[str, object]:
        """The body of an error answer, in the form the backend uses too."""
        return {"error": {"code": self.code, "message": self.message, "status": self.status}}


class BackendError(FrontendError):
    """TorchServe refused the photo, failed, or cannot be reached."""


class NoPhoto(FrontendError):
    """The request holds no photo."""

    def __init__(self) -> None:
        super().__init__("empty_input", "The request holds no photo.", 400)


class WrongHost(FrontendError):
    """The request names a host that is not among the page's own."""

    def __init__(self) -> None:
        super().__init__("wrong_host", "This page does not answer under that name.", 421)


class CrossSite(FrontendError):
    """A browser sends this for another site's page."""

    def __init__(self) -> None:
        message = "Requests from the pages of other sites are not answered."
        super().__init__("cross_site", message, 403)


class FormExpired(FrontendError):
    """The form's token is missing or not of this browser."""

    def __init__(self) -> None:
        message = "The form has no valid token; programs use /api/detect."
        super().__init__("form_expired", message, 403)


class NoKey(FrontendError):
    """The JSON route asks for an API key, and there is none that is known."""

    def __init__(self) -> None:
        message = "An API key is needed: send it as Authorization: Bearer KEY."
        super().__init__("key_required", message, 401)


class KeyRevoked(FrontendError):
    """The API key was good once."""

    def __init__(self) -> None:
        super().__init__("key_revoked", "This API key has been revoked; ask for a new one.", 403)


class TooMany(FrontendError):
    """More photos in a time than allowed; ``wait`` is the number of seconds until some are."""

    def __init__(self, wait: int) -> None:
        message = f"Too many photos in a short time; wait {wait} s."
        super().__init__("too_many_requests", message, 429, wait)


class UploadIncomplete(FrontendError):
    """The body broke off, or took too long."""

    def __init__(self) -> None:
        super().__init__("upload_incomplete", "The photo did not arrive in time, or whole.", 408)


def register(app: Flask) -> None:
    """Answer every error of ``app`` in JSON under /api/, else with the page."""
    app.register_error_handler(FrontendError, _answer)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(ClientDisconnected, lambda error: _answer(UploadIncomplete()))


def _answer(error: FrontendError) -> Response:
    if error.status >= 500:
        current_app.logger.warning("%s answered %d %s", request.path, error.status, error.code)
    if request.path.startswith("/api/"):
        response = jsonify(error.to_json())
    else:
        response = make_response(render_template("page.html", error=error))
    response.status_code = error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _answer_http(error: HTTPException) -> Response:
    status = error.code or 500
    code = HTTP_CODES.get(status, "bad_request" if status < 500 else "internal_error")
    message = "The file has too many bytes." if status == 413 else error.description or error.name
    response = _answer(FrontendError(code, message, status))
    allow = dict(error.get_headers()).get("Allow")
    if allow:
        response.headers["Allow"] = allow
    return response
