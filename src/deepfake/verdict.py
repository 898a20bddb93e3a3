"""What the answer about a photo says, and how it is written down."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from deepfake.checkpoint import OperatingPoint
from deepfake.faces import Face
from deepfake.views import VIEWS

CROP_QUALITY = 90  # JPEG, of the crops in an answer


@dataclass(frozen=True)
class FaceVerdict:
    """What was found about one face.

    Attributes:
        face: box in pixels of the upright photo, and MTCNN's score in [0, 1].
        fake_probability: mean of ``views``, in [0, 1].
        views: P(fake) of each test-time view, in the order of ``deepfake.views.VIEWS``.
        label: Fake or Real.
        verdict: the label, or Uncertain where the probability is too close to call.
        confidence: probability of the label, in [0, 1].
        crop: the square RGB crop that was judged, reduced if it is a large one.
        heat_map: see ``deepfake.explain``; None unless ``Pipeline.explain`` made one.
    """

    face: Face
    fake_probability: float
    views: tuple[float, ...]
    label: str
    verdict: str
    confidence: float
    crop: Image.Image
    heat_map: Tensor | None = None

    def to_json(self, crops: bool = False) -> dict[str, object]:
        """Plain types, the heat map if there is one; with ``crops`` the crop, as base64 JPEG."""
        answer: dict[str, object] = {
            "box": [round(v, 1) for v in self.face.box],
            "detection_score": round(self.face.score, 4),
            "label": self.label,
            "verdict": self.verdict,
            "confidence": round(self.confidence, 4),
            "fake_probability": round(self.fake_probability, 4),
            "views": {name: round(p, 4) for name, p in zip(VIEWS, self.views, strict=True)},
        }
        if crops:
            buffer = io.BytesIO()
            self.crop.save(buffer, "JPEG", quality=CROP_QUALITY)
            answer["crop"] = base64.b64encode(buffer.getvalue()).decode("ascii")
        if self.heat_map is not None:
            answer["heat_map"] = [[round(v, 3) for v in row] for row in self.heat_map.tolist()]
        return answer


@dataclass(frozen=True)
class Verdict:
    """The answer about one photo: that of its most fake face.

    Attributes:
        faces: largest first; of a crowd the largest only.
        faces_found: how many there were before that limit.
        point: the threshold in use, and how often it errs.
        width, height: of the upright photo, pixels.
        band: P(fake) from the first to the second is Uncertain; None if nothing is.
    """

    faces: tuple[FaceVerdict, ...]
    faces_found: int
    point: OperatingPoint
    width: int
    height: int
    band: tuple[float, float] | None = None

    @property
    def worst(self) -> FaceVerdict:
        """The face with the highest P(fake)."""
        return max(self.faces, key=lambda f: f.fake_probability)

    def to_json(self, crops: bool = False) -> dict[str, object]:
        """Plain types, as documented in docs/openapi.yaml (without ``model``)."""
        worst = self.worst
        return {
            "label": worst.label,
            "verdict": worst.verdict,
            "confidence": round(worst.confidence, 4),
            "fake_probability": round(worst.fake_probability, 4),
            "threshold": round(self.point.threshold, 4),
            "uncertain_band": self.band and [round(p, 4) for p in self.band],
            "false_positive_rate": _rounded(self.point.false_positive_rate),
            "faces": [face.to_json(crops) for face in self.faces],
            "faces_found": self.faces_found,
            "image": {"width": self.width, "height": self.height},
        }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
