"""From photos to verdicts with a small real network: probabilities, batches, errors."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from deepfake import errors
from deepfake.checkpoint import Checkpoint, save
from deepfake.faces import Face, FaceDetector, crop_face
from deepfake.pipeline import Pipeline
from deepfake.runtime import Runtime
from deepfake.verdict import Verdict
from deepfake.views import VIEWS, make_views, to_pixels
from tests.conftest import ASTRONAUT, FAKES, montage
from tests.openapi import validate
from tests.unit.judged import in_torch, verdict_of

MakeCheckpoint = Callable[..., Checkpoint]


def test_each_view_is_the_softmax_of_the_models_logits(
    pipeline: Pipeline, detector: FaceDetector, astronaut: Image.Image
) -> None:
    """Recomputed step by step, one view at a time."""
    crop = crop_face(astronaut, detector(astronaut)[0].box, margin=0.3)
    expected = []
    for view in make_views(crop, 64):
        with torch.no_grad():
            x = pipeline.model.preprocess(torch.from_numpy(view[None]))
            logits = pipeline.model(x)[0].double().numpy()
        real, fake = np.exp(logits / 1.7)
        expected.append(fake / (real + fake))
    face = verdict_of(pipeline, astronaut).faces[0]
    np.testing.assert_allclose(face.views, expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3  # the views differ, so their order is checked too
    np.testing.assert_array_equal(np.asarray(face.crop), np.asarray(crop))


def test_a_faces_probability_is_the_mean_of_its_three_views(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        for face in verdict.faces:
            assert len(face.views) == len(VIEWS) == 3
            assert face.fake_probability == pytest.approx(np.mean(face.views), abs=1e-9)
    assert np.ptp([v.worst.fake_probability for v in verdicts]) > 0.05


def test_temperature_pulls_towards_one_half(make_checkpoint: MakeCheckpoint) -> None:
    crop = Image.open(FAKES[0]).convert("RGB")
    sharp, soft = (
        np.array(in_torch(make_checkpoint(temperature=t)).classify([crop])[0]) for t in (0.5, 5.0)
    )
    assert (abs(soft - 0.5) < abs(sharp - 0.5)).all()
    odds = [np.log(p / (1 - p)) for p in (sharp, soft)]
    np.testing.assert_allclose(odds[0], odds[1] * 10, rtol=1e-3)


def test_a_batch_is_answered_as_each_photo_alone(
    pipeline: Pipeline, verdicts: list[Verdict]
) -> None:
    photos = [path.read_bytes() for path in (ASTRONAUT, *FAKES)]
    together = pipeline.predict(photos)
    for alone, answer in zip(verdicts, together, strict=True):
        assert isinstance(answer, Verdict)
        assert [f.face for f in answer.faces] == [f.face for f in alone.faces]
        for ours, theirs in zip(answer.faces, alone.faces, strict=True):
            np.testing.assert_allclose(ours.views, theirs.views, atol=1e-4)
        assert answer.worst.label == alone.worst.label


def test_photos_examined_at_the_same_time_keep_their_answers(
    pipeline: Pipeline, verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many at once as there are threads; elsewhere in the tests that is one."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    photos: list[bytes] = [path.read_bytes() for path in (ASTRONAUT, *FAKES)]
    answers = pipeline.predict([*photos, b"", *reversed(photos)])
    expected = [*verdicts, errors.EmptyInput(), *reversed(verdicts)]
    for given, wanted in zip(answers, expected, strict=True):
        if isinstance(wanted, Verdict):
            assert isinstance(given, Verdict)
            assert given.to_json() == wanted.to_json()
        else:
            assert isinstance(given, errors.EmptyInput)


def test_bad_photos_do_not_touch_the_good_ones(pipeline: Pipeline, verdicts: list[Verdict]) -> None:
    passed_on = errors.BadBase64("not base64")
    no_face = Image.new("RGB", (200, 200), "grey")
    answers = pipeline.predict(
        [b"", FAKES[0].read_bytes(), b"no image", no_face, passed_on, ASTRONAUT.read_bytes()]
    )
    codes = [a.code if isinstance(a, errors.DeepfakeError) else "" for a in answers]
    assert codes == ["empty_input", "", "unsupported_format", "no_face", "bad_base64", ""]
    assert answers[4] is passed_on
    for answer, alone in ((answers[1], verdicts[1]), (answers[5], verdicts[0])):
        assert isinstance(answer, Verdict)
        np.testing.assert_allclose(answer.worst.views, alone.worst.views, atol=1e-4)


def test_a_batch_of_bad_photos_only_is_answered(pipeline: Pipeline) -> None:
    answers = pipeline.predict([b"", b"no image"])
    assert [type(a) for a in answers] == [errors.EmptyInput, errors.UnsupportedFormat]
    assert pipeline.predict([]) == []


def test_a_strip_too_narrow_for_a_face_has_no_face(pipeline: Pipeline) -> None:
    (answer,) = pipeline.predict([Image.new("RGB", (3000, 40), "grey")])
    assert isinstance(answer, errors.NoFace)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_small_face_that_is_alone_is_judged_by_all_of_its_pixels(
    pipeline: Pipeline, astronaut: Image.Image, kind: str
) -> None:
    """Of a JPEG first half of the pixels are decoded, in which it is not seen."""
    photo = Image.new("RGB", (3000, 2000), "darkgreen")
    photo.paste(astronaut.resize((270, 270)), (1900, 700))
    blob = io.BytesIO()
    photo.save(blob, kind)
    stages: list[str] = []
    (answer,) = pipeline.predict([blob.getvalue()], observe=lambda stage, _: stages.append(stage))
    assert sorted(stages) == ["classify", "decode", "detect"], "one time for each, of all looks"
    assert isinstance(answer, Verdict)
    assert (answer.width, answer.height) == (3000, 2000)
    (face,) = answer.faces
    left, top, right, bottom = face.face.box
    assert 1900 < left < right < 2170
    assert 700 < top < bottom < 970
    margin = pipeline.checkpoint.crop_margin
    np.testing.assert_allclose(face.crop.width, (1 + 2 * margin) * (bottom - top), atol=2)


def test_each_face_is_judged_by_its_own_crop(
    pipeline: Pipeline, group: Image.Image, astronaut: Image.Image
) -> None:
    answers = pipeline.predict([group, astronaut, group])
    for answer in answers:
        assert isinstance(answer, Verdict)
        for face in answer.faces:
            np.testing.assert_allclose(face.views, pipeline.classify([face.crop])[0], atol=1e-4)


def test_of_a_crowd_the_32_largest_faces_are_judged(
    pipeline: Pipeline, fake_faces: list[tuple[Image.Image, Face]]
) -> None:
    photos = [photo for photo, _ in fake_faces]
    crowd = montage((photos * 3)[:36], columns=6, cell=170)
    found = pipeline.detector(crowd)
    assert len(found) >= 36
    verdict = verdict_of(pipeline, crowd)
    assert verdict.faces_found == len(found)
    assert [f.face for f in verdict.faces] == found[:32]
    validate(verdict.to_json(), "Verdict", without="model")


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_a_network_that_answers_nan_is_an_internal_error(
    make_checkpoint: MakeCheckpoint, runtime: str
) -> None:
    """Never a verdict: a comparison with NaN would call everything Real."""
    checkpoint = make_checkpoint()
    with torch.no_grad():
        checkpoint.model.head[3].bias[0] = float("nan")
    pipeline = Pipeline(checkpoint, runtime=runtime)
    answers = pipeline.predict([ASTRONAUT.read_bytes(), b""])
    assert [type(a) for a in answers] == [errors.InternalError, errors.EmptyInput]


def test_any_failure_over_one_photo_is_kept_to_it(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    """Such as an image in memory that was closed: it raises a ValueError of Pillow's."""
    closed = astronaut.copy()
    closed.close()
    answers = pipeline.predict([closed, astronaut])
    assert isinstance(answers[0], errors.InternalError)
    assert isinstance(answers[1], Verdict)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_photos_that_are_too_many_for_the_network_at_once_are_judged_one_by_one(
    make_checkpoint: MakeCheckpoint, verdicts: list[Verdict], error: Exception
) -> None:
    pipeline = in_torch(make_checkpoint(temperature=1.7, crop_margin=0.3))
    whole = pipeline.runtime

    def with_little_memory(pixels: Any) -> Any:
        if len(pixels) > len(VIEWS):
            raise error
        return whole(pixels)

    pipeline.runtime = cast(Runtime, with_little_memory)
    photos = [path.read_bytes() for path in (ASTRONAUT, *FAKES[:2])]
    answers = pipeline.predict([*photos, b"", montage([Image.open(p) for p in FAKES[:2]], 2, 250)])
    for answer, alone in zip(answers[:3], verdicts, strict=False):
        assert isinstance(answer, Verdict)
        assert answer.worst.views == pytest.approx(alone.worst.views, abs=1e-5)
    # The last has two faces, which are too many even alone.
    assert [type(a) for a in answers[3:]] == [errors.EmptyInput, errors.OutOfMemory]


def test_a_failure_of_the_network_over_one_photo_spares_the_others(
    make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = in_torch(make_checkpoint())
    whole, size = pipeline.runtime, pipeline.model.image_size
    portrait = Image.open(FAKES[0]).convert("RGB")
    box = pipeline.detector(portrait)[0].box
    pixels_of_it = to_pixels(crop_face(portrait, box, pipeline.checkpoint.crop_margin), size)

    def without_that_face(pixels: Any) -> Any:
        if any(np.array_equal(view, pixels_of_it) for view in pixels):
            raise RuntimeError("an operator failed")
        return whole(pixels)

    pipeline.runtime = cast(Runtime, without_that_face)
    answers = pipeline.predict([ASTRONAUT.read_bytes(), portrait, FAKES[1].read_bytes()])
    assert [type(a) for a in answers] == [Verdict, errors.InternalError, Verdict]
    assert "an operator failed" in caplog.text


def test_stages_are_reported_per_photo_and_the_network_once(
    pipeline: Pipeline, astronaut: Image.Image
) -> None:
    told: list[tuple[str, float]] = []
    grey = Image.new("RGB", (64, 64))
    photos = [ASTRONAUT.read_bytes(), astronaut, FAKES[0].read_bytes(), grey, errors.EmptyInput()]
    pipeline.predict(photos, observe=lambda stage, seconds: told.append((stage, seconds)))
    assert Counter(stage for stage, _ in told) == {"decode": 2, "detect": 4, "classify": 1}
    assert all(seconds > 0 for _, seconds in told)

    told.clear()
    pipeline.predict([grey], observe=lambda stage, seconds: told.append((stage, seconds)))
    assert [stage for stage, _ in told] == ["detect"]  # without a face the network is not asked


def test_a_pipeline_comes_from_a_file(
    tmp_path: Any, pipeline: Pipeline, verdicts: list[Verdict]
) -> None:
    save(tmp_path / "saved.pth", pipeline.checkpoint, half=False)
    loaded = Pipeline.from_file(tmp_path / "saved.pth", runtime="torch")
    loaded.warm_up()
    answer = verdict_of(loaded, ASTRONAUT.read_bytes())
    assert answer.worst.views == pytest.approx(verdicts[0].worst.views, abs=1e-5)


def test_size_in_the_answer_is_that_of_the_upright_photo(pipeline: Pipeline) -> None:
    photo = Image.open(ASTRONAUT).crop((0, 0, 512, 300)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    verdict = verdict_of(pipeline, buffer.getvalue())
    assert (verdict.width, verdict.height) == (512, 300)
