"""What tests of pipelines share; the fixtures are in conftest.py."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from deepfake.checkpoint import Checkpoint
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict


def verdict_of(pipeline: Pipeline, photo: bytes | Image.Image) -> Verdict:
    (answer,) = pipeline.predict([photo])
    assert isinstance(answer, Verdict), answer
    return answer


def in_torch(checkpoint: Checkpoint, point: str = "balanced") -> Pipeline:
    """A pipeline whose numbers are PyTorch's: test_runtime.py compares OpenVINO's with them."""
    return Pipeline(checkpoint, point=point, runtime="torch")


def with_threshold(
    pipeline: Pipeline, threshold: float, uncertain: tuple[float, float] | None = None
) -> Pipeline:
    """The same network, uncertain in that band; operating points would outrank the threshold."""
    settings = {"threshold": threshold, "uncertain": uncertain, "operating_points": {}}
    return in_torch(replace(pipeline.checkpoint, **settings))
