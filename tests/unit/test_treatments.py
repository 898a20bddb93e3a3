"""Everyday editing of a photo: the treatments do what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.errors import BrokenImage, DataError
from training import treatments
from training.data import Sample
from training.treatments import TREATMENTS, treated


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def test_every_treatment_gives_the_same_picture_each_time(astronaut: Image.Image) -> None:
    for name, treat in TREATMENTS.items():
        first, again = treat(astronaut), treat(astronaut)
        assert first.mode == "RGB", name
        assert first.tobytes() == again.tobytes(), name
        assert (first.tobytes() == astronaut.tobytes()) is (name == "as it is"), name


def test_treatments_do_what_they_are_called(astronaut: Image.Image) -> None:
    plain = values(astronaut)

    def of(name: str) -> np.ndarray:
        return values(TREATMENTS[name](astronaut))

    def error(name: str) -> float:
        return float(np.abs(of(name) - plain).mean())

    assert error("JPEG quality 90") < error("JPEG quality 50") < error("JPEG quality 30")
    assert TREATMENTS["size x 0.25"](astronaut).size == (128, 128)
    assert of("brightness x 0.6").mean() == pytest.approx(0.6 * plain.mean(), rel=0.02)
    assert (of("noise 10") - plain).std() == pytest.approx(10, rel=0.15)  # some is clipped

    def detail(a: np.ndarray) -> float:
        return float(np.abs(np.diff(a, axis=1)).mean())

    assert detail(of("blur 2 px")) < detail(of("blur 1 px")) < detail(plain)
    assert detail(of("sharpened")) > detail(plain)
    warm = of("colour grade").mean(axis=(0, 1)) / plain.mean(axis=(0, 1))
    assert warm[0] > warm[2]
    assert np.ptp(of("black and white"), axis=-1).max() == 0
    assert detail(of("blur 2 px")) < detail(of("skin smoothed")) < detail(plain)

    middle, corner = (slice(246, 266), slice(246, 266)), (slice(10), slice(10))
    assert of("vignette")[middle].mean() > 0.95 * plain[middle].mean()
    assert of("vignette")[corner].mean() < 0.5 * plain[corner].mean()
    assert of("turned by 10 degrees")[middle].mean() == pytest.approx(plain[middle].mean(), abs=5)
    assert of("turned by 10 degrees")[corner].max() == 0


def test_a_screenshot_shows_the_photo_larger_and_framed(
    astronaut: Image.Image, detector: Callable[[Image.Image], list[object]]
) -> None:
    page = TREATMENTS["screenshot"](astronaut)
    assert page.width > 1.4 * astronaut.width
    assert len(detector(page)) == 1


def test_a_file_that_gives_no_picture_is_passed_on_as_its_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    sample = Sample(tmp_path / "a.jpg", "a.jpg", 0)
    assert isinstance(treated(sample, "blur 1 px"), BrokenImage)
    missing = Sample(tmp_path / "b.jpg", "b.jpg", 0)
    assert isinstance(treated(missing, "blur 1 px"), DataError)


def test_answers_about_another_version_of_a_treatment_have_another_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or what was kept of the old one would be taken for what is said of the new one."""
    before = treatments.key_of("screenshot")
    assert before == treatments.key_of("screenshot") != treatments.key_of("as it is")
    changed = tmp_path / "treatments.py"
    changed.write_text(Path(treatments.__file__).read_text().replace("1.25", "1.5"))
    monkeypatch.setattr(treatments, "__file__", str(changed))
    assert treatments.key_of("screenshot") != before
