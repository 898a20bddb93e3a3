"""Every way a request or a command can fail, as one small tree.

::

    DeepfakeError
    ├── InputError             the caller can mend it
    │   ├── EmptyInput             400  empty_input
    │   ├── BadRequest             400  bad_request
    │   ├── BadBase64              400  bad_base64
    │   ├── UnsupportedFormat      415  unsupported_format
    │   ├── BrokenImage            422  broken_image
    │   ├── ImageTooSmall          422  image_too_small
    │   ├── NoFace                 422  no_face
    │   ├── ImageTooLarge          413  image_too_large
    │   └── TooManyPixels          413  too_many_pixels
    ├── OutOfMemory            503  out_of_memory
    ├── CheckpointError        500  bad_checkpoint
    ├── DataError              500  bad_data        (commands only)
    └── InternalError          500  internal_error
"""

from __future__ import annotations


class DeepfakeError(Exception):
    """Base of all errors: a stable ``code``, an HTTP ``status`` and one plain sentence."""

    code = "error"
    status = 500

    def to_json(self) -> dict[str, object]:
        """The body of an error answer: ``{"error": {"code", "message", "status"}}``."""
        return {"error": {"code": self.code, "message": str(self), "status": self.status}}


class InputError(DeepfakeError):
    """The caller sent something that cannot be judged."""

    status = 400


class EmptyInput(InputError):
    """There was no image in the request."""

    code = "empty_input"


class BadRequest(InputError):
    """The request's JSON or its options are not understood."""

    code = "bad_request"


class BadBase64(InputError):
    """The JSON field ``image`` is not base64."""

    code = "bad_base64"


class UnsupportedFormat(InputError):
    """The bytes are not an image of a supported format."""

    code = "unsupported_format"
    status = 415


class BrokenImage(InputError):
    """The format is known, but the image cannot be decoded (truncated or damaged)."""

    code = "broken_image"
    status = 422


class ImageTooSmall(InputError):
    """The image is too small to hold a face."""

    code = "image_too_small"
    status = 422


class NoFace(InputError):
    """No face was found in the image."""

    code = "no_face"
    status = 422


class ImageTooLarge(InputError):
    """The file has too many bytes."""

    code = "image_too_large"
    status = 413


class TooManyPixels(InputError):
    """The image has too many pixels."""

    code = "too_many_pixels"
    status = 413


class OutOfMemory(DeepfakeError):
    """There was not enough memory for this photo; nothing is wrong with it."""

    code = "out_of_memory"
    status = 503


class CheckpointError(DeepfakeError):
    """A checkpoint file is missing, damaged or not one of ours."""

    code = "bad_checkpoint"


class InternalError(DeepfakeError):
    """Something failed that is our fault; the log has the traceback."""

    code = "internal_error"


class DataError(DeepfakeError):
    """A data folder, manifest or option of a command cannot be used as given."""

    code = "bad_data"
