"""The routes."""

from __future__ import annotations

from typing import cast

from flask import Blueprint, current_app, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from frontend import preview
from frontend.client import Client
from frontend.errors import NoPhoto, UploadIncomplete

IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/gif",
    "image/tiff",
    "image/avif",
)
UNKNOWN_TYPE = "application/octet-stream"  # the backend looks at the bytes themselves

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """The page with the form."""
    return render_template("page.html")


@blueprint.post("/")
def result() -> str:
    """The page with the verdict on the form's photo; needs no JavaScript."""
    blob, content_type = _uploaded()
    verdict = _client().detect(blob, content_type, crops=True)
    return render_template("page.html", verdict=verdict, photo=preview.data_uri(blob))


@blueprint.post("/api/detect")
def detect() -> ResponseReturnValue:
    """The backend's JSON, for a photo in the multipart field ``image`` or as the raw body."""
    blob, content_type = _uploaded() if request.mimetype == "multipart/form-data" else _raw()
    return jsonify(_client().detect(blob, content_type, request.args.get("crops") == "true"))


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Whether this process runs."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Whether a photo sent now would be judged."""
    if _client().ready():
        return {"status": "ok"}
    return {"status": "the detector is not ready"}, 503


@blueprint.app_template_filter()
def percent(probability: float) -> str:
    """0.873 -> "87.3 %". Never 0 or 100: rounding must not claim a certainty nobody has."""
    if probability > 0.999:
        return "over 99.9 %"
    if probability < 0.001:
        return "under 0.1 %"
    return f"{100 * probability:.1f} %"


@blueprint.app_context_processor
def _form_values() -> dict[str, object]:
    return {"image_types": ",".join(IMAGE_TYPES)}


def _client() -> Client:
    return cast(Client, current_app.extensions["backend"])


def _uploaded() -> tuple[bytes, str]:
    """The form's photo and its type; NoPhoto if there is none."""
    upload = request.files.get("image")
    if not upload or not (blob := upload.read()):
        raise NoPhoto
    return blob, upload.mimetype if upload.mimetype in IMAGE_TYPES else UNKNOWN_TYPE


def _raw() -> tuple[bytes, str]:
    """The body and its type.

    Raises:
        NoPhoto: it is empty.
        UploadIncomplete: it broke off.
        RequestEntityTooLarge: it is too long.
    """
    blob = request.get_data(cache=False)
    if len(blob) == request.max_content_length:
        # Of a body without a length, Werkzeug drops what is over the limit, without a word.
        raise RequestEntityTooLarge
    if len(blob) < (request.content_length or 0):
        raise UploadIncomplete
    if not blob:
        raise NoPhoto
    # The backend takes JSON with a base64 image as well. Anything else, such as the form type
    # that curl claims for --data-binary, would only mislead it.
    known = (*IMAGE_TYPES, "application/json")
    return blob, request.mimetype if request.mimetype in known else UNKNOWN_TYPE
