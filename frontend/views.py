"""The routes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    g,
    jsonify,
    make_response,
    render_template,
    request,
    send_file,
)
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from frontend import documents, text
from frontend.client import Client
from frontend.errors import FrontendError, NoPhoto, UploadIncomplete
from frontend.judge import Photo, Result, judge
from frontend.slots import waited

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
MAX_PHOTOS = 10  # of one form; they are judged one after the other
SAMPLES = ("astronaut", "t2i_0102", "t2i_0040", "t2i_0039")

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """The page with the form."""
    return render_template("page.html")


@blueprint.post("/")
def result() -> Response:
    """The page with the verdicts on the form's photos; needs no JavaScript."""
    photos = _chosen()
    if len(photos) > MAX_PHOTOS:
        raise FrontendError("too_many_photos", f"The form holds {len(photos)} photos.", 413)
    heat = request.form.get("heat") == "true"
    results = list(_judged(photos, heat))
    response = make_response(render_template("page.html", results=results))
    failed = [r.error for r in results if r.error]
    if failed:
        g.error_code = failed[0].code  # for the log
    if len(failed) == len(results):
        response.status_code = failed[0].status
        if failed[0].retry_after is not None:
            response.headers["Retry-After"] = str(failed[0].retry_after)
    return response


@blueprint.post("/api/detect")
def detect() -> ResponseReturnValue:
    """The backend's JSON, for a photo in the multipart field ``image`` or as the raw body."""
    return _answer(explain=False)


@blueprint.post("/api/explain")
def explain() -> ResponseReturnValue:
    """The same, with heat maps of the faces."""
    return _answer(explain=True)


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


@blueprint.get("/docs/model-card")
def model_card() -> str:
    """MODEL_CARD.md, readable."""
    return render_template("card.html", body=documents.model_card())


@blueprint.get("/docs/api")
def api() -> str:
    """docs/openapi.yaml, readable, with the address that this page was asked for by."""
    scheme = "https" if current_app.config["SESSION_COOKIE_SECURE"] else request.scheme
    own = f"{scheme}://{request.host}"
    return render_template("api.html", api=documents.api(), documented=documents.PAGE, own=own)


@blueprint.get("/docs/<any('openapi.yaml', 'evaluation.png', 'failures.png'):name>")
def document(name: str) -> ResponseReturnValue:
    """A file that the other pages of /docs refer to."""
    path: Path = documents.FILES[name]
    if not path.is_file():
        abort(404)
    return send_file(path)


@blueprint.app_template_filter()
def percent(probability: float) -> str:
    """See ``text.percent``."""
    return text.percent(probability, str(current_app.config["LANGUAGE"]))


blueprint.add_app_template_filter(text.setting, "setting")
blueprint.add_app_template_filter(documents.markdown, "markdown")
blueprint.add_app_template_filter(documents.type_of, "type_of")


@blueprint.app_context_processor
def _values() -> dict[str, object]:
    return {
        "t": text.load(str(current_app.config["LANGUAGE"])),
        "image_types": ",".join(IMAGE_TYPES),
        "samples": SAMPLES,
    }


def _client() -> Client:
    return cast(Client, current_app.extensions["backend"])


def _judged(photos: list[Photo], heat: bool) -> Iterator[Result]:
    """One after the other; what the first have taken of the time for an answer, the next lack."""
    began, before = time.monotonic(), waited.get()
    for photo in photos:
        waited.set(before + time.monotonic() - began)
        yield judge(_client(), photo, heat)


def _answer(explain: bool) -> ResponseReturnValue:
    if request.mimetype == "multipart/form-data":
        _, blob, media_type = _first(_uploaded("image"))
    else:
        blob, media_type = _raw()
    crops = request.args.get("crops") == "true"
    return jsonify(_client().detect(blob, media_type, crops, explain))


def _chosen() -> list[Photo]:
    """The form's photos or its sample; NoPhoto if there are none."""
    name = request.form.get("sample")
    if name in SAMPLES:
        path = Path(cast(str, current_app.static_folder)) / "samples" / f"{name}.jpg"
        return [Photo(path.name, path.read_bytes(), "image/jpeg")]
    photos = _uploaded("image")
    _first(photos)
    return photos


def _uploaded(field: str) -> list[Photo]:
    """The files of a form's field; those that are empty, as unused inputs send them, left out."""
    photos = (_photo(upload) for upload in request.files.getlist(field))
    return [photo for photo in photos if photo.blob]


def _photo(upload: FileStorage) -> Photo:
    known = upload.mimetype in IMAGE_TYPES
    return Photo(upload.filename or "", upload.read(), upload.mimetype if known else UNKNOWN_TYPE)


def _first(photos: list[Photo]) -> Photo:
    if not photos:
        raise NoPhoto
    return photos[0]


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
