"""Whatever the bytes: decoding, crop and verdict end in an answer, never in anything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.checkpoint import Checkpoint
from deepfake.errors import InputError
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from tests.fuzz import examples, files
from tests.uploads.case import encode, portrait

GOOD = encode(portrait(), "PNG")

# Pillow's own, about the damage that is meant here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]


@pytest.fixture(scope="module")
def pipeline(make_checkpoint: Callable[..., Checkpoint]) -> Pipeline:
    return Pipeline(make_checkpoint(), runtime="torch")


@pytest.fixture(scope="module")
def good(pipeline: Pipeline) -> dict[str, object]:
    (answer,) = pipeline.predict([GOOD])
    assert isinstance(answer, Verdict)
    return answer.to_json()


@examples(150)
@given(batch=st.lists(files(), min_size=1, max_size=3))
def test_any_bytes_get_an_answer_and_leave_the_others_alone(
    pipeline: Pipeline, good: dict[str, object], batch: list[bytes]
) -> None:
    *answers, last = pipeline.predict([*batch, GOOD])
    assert isinstance(last, Verdict)
    assert last.to_json() == good
    for answer in answers:
        if isinstance(answer, Verdict):
            assert all(0 <= face.fake_probability <= 1 for face in answer.faces)
        else:
            assert isinstance(answer, InputError), "never a 500"
