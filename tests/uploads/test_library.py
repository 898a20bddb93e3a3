"""Every upload gets an answer: the whole table through decoding, crop and verdict."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest
from PIL import Image

from deepfake.checkpoint import Checkpoint
from deepfake.errors import DeepfakeError, InputError
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.uploads import all_cases
from tests.uploads.case import VERDICT, Case, encode, portrait

CASES = all_cases()
MOST_MEMORY = 1500  # MB above what the networks need, for the largest photo that is accepted
GOOD = encode(portrait(), "PNG")

# Pillow's own, about the damage that is meant here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module")
def pipeline(make_checkpoint: Callable[..., Checkpoint]) -> Pipeline:
    pipeline = Pipeline(make_checkpoint(), runtime="torch")
    pipeline.warm_up()
    return pipeline


@pytest.fixture(scope="module")
def good(pipeline: Pipeline) -> dict[str, object]:
    """What the library says of a sound photo."""
    (answer,) = pipeline.predict([GOOD])
    assert isinstance(answer, Verdict)
    return answer.to_json()


def peak() -> float:
    """The most memory this process has held so far, in MB: it has no other room's tests to do."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module", autouse=True)
def baseline(pipeline: Pipeline, good: dict[str, object]) -> float:
    """The peak once the networks have run."""
    return peak()


def test_there_are_enough_cases() -> None:
    assert len({case.blob for case in CASES}) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_upload_gets_its_answer_and_leaves_the_others_alone(
    pipeline: Pipeline, good: dict[str, object], case: Case
) -> None:
    answer, other = pipeline.predict([case.blob, GOOD])
    assert isinstance(other, Verdict)
    assert other.to_json() == good
    if isinstance(answer, DeepfakeError):
        assert isinstance(answer, InputError), "never a 500"
        assert answer.code in case.right, answer
    else:
        assert VERDICT in case.right
        assert all(0 <= face.fake_probability <= 1 for face in answer.faces)


# As files these have a few hundred kB; the largest that are accepted, in the costly modes.
LARGEST = {
    "PNG RGBA": ("RGBA", "PNG", {"compress_level": 1}),
    "PNG 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "TIFF CMYK": ("CMYK", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF floats": ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_photos_stay_within_their_memory(pipeline: Pipeline, name: str) -> None:
    mode, kind, options = LARGEST[name]
    (answer,) = pipeline.predict([encode(Image.new(mode, (7000, 7000)), kind, **options)])
    assert isinstance(answer, InputError)
    assert answer.code == "no_face"


def test_all_of_them_together_took_bounded_memory(baseline: float) -> None:
    """Runs last; the peak is that of this whole room."""
    grown = peak() - baseline
    print(f"memory grew by {grown:.0f} MB")
    assert grown < MOST_MEMORY
