"""Every error a visitor can meet: its code and its status; the page's words are in text/."""

from __future__ import annotations

from flask import Flask, Response, g, jsonify, make_response, render_template, request
from werkzeug.exceptions import ClientDisconnected, HTTPException

HTTP_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "image_too_large",
}


class FrontendError(Exception):
    """An error with a stable ``code``, one plain sentence and an HTTP ``status``.

    ``retry_after`` is the number of seconds after which trying again makes sense, if known;
    ``wait`` those for which the backend itself asked to be left alone.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int,
        retry_after: int | None = None,
        wait: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after
        self.wait = wait

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
    g.error_code = error.code  # for the log
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
