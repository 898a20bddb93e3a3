"""One photo of a visitor and what came of it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from frontend import preview
from frontend.client import Client
from frontend.errors import FrontendError


class Photo(NamedTuple):
    """An uploaded file: the name it came with, its bytes, its media type."""

    name: str
    blob: bytes
    media_type: str


@dataclass(frozen=True)
class Result:
    """A photo's verdict, or the error that kept it from one.

    Attributes:
        name: of the file, as the browser gave it.
        sha256: of the file, hexadecimal.
        size: of the file, bytes.
        time: when it was judged, UTC.
        verdict: the ``Verdict`` of docs/openapi.yaml, with crops; None after an error.
        error: None when there is a verdict.
        photo: the photo for display, a data: URI; None if there is none.
        heat: for each face the crop under its heat map, a data: URI; None where none was made.
    """

    name: str
    sha256: str
    size: int
    time: datetime
    verdict: dict[str, Any] | None = None
    error: FrontendError | None = None
    photo: str | None = None
    heat: tuple[str | None, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """What can be downloaded: the file's name and hash, the time, the verdict less crops."""
        verdict = dict(self.verdict or {})
        verdict["faces"] = [
            {key: value for key, value in face.items() if key != "crop"}
            for face in verdict.get("faces", [])
        ]
        return {
            "file": {"name": self.name, "sha256": self.sha256, "bytes": self.size},
            "time": self.time.isoformat(timespec="seconds"),
            "result": verdict,
        }

    @property
    def download(self) -> str:
        """``document`` as a data: URI, so that it can be had without storing anything."""
        text = json.dumps(self.document, indent=2, ensure_ascii=False)
        return "data:application/json;base64," + base64.b64encode(text.encode()).decode("ascii")


def judge(client: Client, photo: Photo, heat: bool) -> Result:
    """Have a photo judged; ``heat`` asks for heat maps too. Errors end up in the result."""
    digest = hashlib.sha256(photo.blob).hexdigest()
    file = (photo.name, digest, len(photo.blob), datetime.now(UTC))
    try:
        verdict = client.detect(photo.blob, photo.media_type, crops=True, explain=heat)
    except FrontendError as error:
        return Result(*file, error=error)
    return Result(
        *file,
        verdict=verdict,
        photo=preview.data_uri(photo.blob),
        heat=tuple(preview.heat_uri(face) for face in verdict["faces"]),
    )
