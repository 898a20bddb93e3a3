"""What tests of several kinds share: photos, the face detector and a small network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from deepfake.checkpoint import Checkpoint
    from deepfake.faces import Face, FaceDetector

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
ASTRONAUT = FIXTURES / "astronaut.jpg"
FAKES = sorted(FIXTURES.glob("t2i_*.jpg"))
TINY = "test_efficientnet.r160_in1k"  # timm's own network for tests: a few milliseconds


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of networks as small as these only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A real photo with one face, 512 x 512."""
    return Image.open(ASTRONAUT).convert("RGB")


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    from deepfake.faces import FaceDetector

    return FaceDetector()


@pytest.fixture(scope="session")
def fake_faces(detector: FaceDetector) -> list[tuple[Image.Image, Face]]:
    """The text-to-image photos, each with its largest face."""
    photos = [Image.open(path).convert("RGB") for path in FAKES]
    return [(photo, detector(photo)[0]) for photo in photos]


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Make a checkpoint of a small network with random weights, the same for the same seed."""

    def make(seed: int = 0, image_size: int = 64, **options: float) -> Checkpoint:
        import torch

        from deepfake.checkpoint import Checkpoint
        from deepfake.model import DeepfakeDetector

        torch.manual_seed(seed)
        model = DeepfakeDetector(TINY, image_size).eval()
        with torch.no_grad():  # as drawn, it answers nearly the same to everything
            for layer in (model.head[0], model.head[3]):
                layer.weight.mul_(40)
        return Checkpoint(model=model, **({"crop_margin": 0.2} | options))

    return make


def montage(photos: list[Image.Image], columns: int, cell: int) -> Image.Image:
    """The photos side by side, each reduced to a square cell of so many pixels."""
    rows = -(-len(photos) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), "grey")
    for i, photo in enumerate(photos):
        sheet.paste(photo.resize((cell, cell)), (i % columns * cell, i // columns * cell))
    return sheet


Ended = tuple[int, str, str]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """Run a program of training/ as its command line would: exit status, output, errors.

    In this process, since importing the networks takes longer than most runs; an exception
    that would have been a traceback comes through.
    """
    from importlib import import_module

    from training.cli import run

    def call(program: str, *options: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [program, *map(str, options)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(import_module(program).main)
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


def sentence(ended: Ended) -> str:
    """The one line with which a program that could not go on ended."""
    status, _, err = ended
    assert status == 1, ended
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.endswith(lines[0] + "\n")
    return lines[0]
