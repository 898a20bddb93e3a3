"""The same network in either runtime gives the same answers, on real crops."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deepfake.checkpoint import Checkpoint, load
from deepfake.errors import CheckpointError
from deepfake.faces import Face, crop_face
from deepfake.model import DeepfakeDetector
from deepfake.runtime import (
    AT_ONCE,
    TOLERANCE,
    OpenVinoRuntime,
    Runtime,
    TorchRuntime,
    agree,
    converted,
    make_runtime,
    openvino_runtime,
    probability,
    torch_runtime,
)
from deepfake.views import VIEWS, Pixels, make_views
from tests.conftest import ROOT, TINY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(ROOT / "saved_model.pth")


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> DeepfakeDetector:
    return checkpoint.model


@pytest.fixture(scope="module")
def pixels(checkpoint: Checkpoint, fake_faces: list[tuple[Image.Image, Face]]) -> Pixels:
    """The three views of every fixture's face."""
    model, margin = checkpoint.model, checkpoint.crop_margin
    crops = [crop_face(photo, face.box, margin) for photo, face in fake_faces]
    return np.concatenate([make_views(crop, model.image_size) for crop in crops])


def p_fake(runtime: Runtime, pixels: Pixels, temperature: float) -> NDArray[np.float64]:
    logits = runtime(pixels)
    assert logits.shape == (len(pixels), 2)
    assert logits.dtype == np.float32
    return probability(logits, temperature)


def test_probability_is_the_softmax_of_the_logits_over_the_temperature() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 2)).astype(np.float32)
    expected = (torch.from_numpy(logits) / 0.3).softmax(dim=1)[:, 1]
    np.testing.assert_allclose(probability(logits, 0.3), expected, atol=1e-6)


def test_probability_of_logits_without_measure_is_a_limit_not_an_error() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38], [np.nan, 0]], dtype=np.float32)
    np.testing.assert_array_equal(probability(logits, 0.05), [0, 1, np.nan])


def test_float32_answers_as_pytorch_does(checkpoint: Checkpoint, pixels: Pixels) -> None:
    model, temperature = checkpoint.model, checkpoint.temperature
    expected = p_fake(make_runtime(model, CPU, "torch"), pixels, temperature)
    given = p_fake(OpenVinoRuntime(converted(model), "f32"), pixels, temperature)
    np.testing.assert_allclose(given, expected, atol=1e-3, rtol=0)
    assert float(expected.max() - expected.min()) > 0.05  # or any constant would do


def test_what_auto_takes_answers_nearly_so_and_labels_alike(
    checkpoint: Checkpoint, pixels: Pixels
) -> None:
    model, temperature = checkpoint.model, checkpoint.temperature
    expected = p_fake(make_runtime(model, CPU, "torch"), pixels, temperature)
    taken = make_runtime(model, CPU, temperature=temperature)
    given = p_fake(taken, pixels, temperature)
    assert taken.name in ("openvino bf16", "openvino f32")
    np.testing.assert_allclose(given, expected, atol=TOLERANCE, rtol=0)
    clear = np.abs(expected - 0.5) > TOLERANCE
    assert ((given > 0.5) == (expected > 0.5))[clear].all()


def test_float32_is_taken_where_bfloat16_would_change_the_answers(model: DeepfakeDetector) -> None:
    """The lower the temperature, the more a trace of a difference weighs."""
    assert openvino_runtime(model, temperature=0.1).name == "openvino f32"
    exact, fast = (TorchRuntime(model, CPU, half) for half in (False, True))
    assert not agree(fast, exact, model.image_size, temperature=0.1)
    assert agree(fast, exact, model.image_size, temperature=100)
    assert torch_runtime(model, CPU).name == "torch f32"


def test_auto_is_pytorch_without_openvino(
    model: DeepfakeDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert make_runtime(model, CPU).name == "torch f32"
    with pytest.raises(CheckpointError, match="not installed"):
        make_runtime(model, CPU, "openvino")


def test_a_runtime_that_cannot_be_had_is_refused(model: DeepfakeDetector) -> None:
    with pytest.raises(CheckpointError, match="'onnx' is unknown, only auto, openvino, torch are"):
        make_runtime(model, CPU, "onnx")
    with pytest.raises(CheckpointError, match="CPU only"):
        make_runtime(model, torch.device("cuda"), "openvino")


def test_pytorch_takes_many_views_in_several_passes_and_answers_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = make_runtime(DeepfakeDetector(TINY, 64).eval(), CPU, "torch")
    pixels = np.random.default_rng(0).integers(0, 256, (AT_ONCE + 5, 3, 64, 64), dtype=np.uint8)
    answers = runtime(pixels)
    passes = []
    network = runtime.model.forward  # type: ignore[attr-defined]
    monkeypatch.setattr(
        runtime.model,  # type: ignore[attr-defined]
        "forward",
        lambda x: (passes.append(len(x)), network(x))[1],
    )
    again = runtime(pixels)
    assert passes == [AT_ONCE, 5]
    np.testing.assert_array_equal(answers, again)
    alone = np.concatenate([runtime(view[None]) for view in pixels[-10:]])
    np.testing.assert_allclose(answers[-10:], alone, atol=1e-4)


def test_openvino_reports_nothing_about_its_use() -> None:
    """Its telemetry package, which asks a server on import, is never loaded."""
    code = (
        "import sys, torch\n"
        "from deepfake.model import DeepfakeDetector\n"
        "from deepfake.runtime import make_runtime\n"
        f"make_runtime(DeepfakeDetector({TINY!r}, 64).eval(), torch.device('cpu'), 'openvino')\n"
        "assert 'openvino' in sys.modules\n"
        "print(sys.modules['openvino_telemetry'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None", done.stdout + done.stderr


def test_networks_that_are_given_up_leave_signals_alone() -> None:
    """SIGTERM reaches its handler after networks came and went, in the order that they came."""
    code = (
        "import os, signal, sys, torch\n"
        "from deepfake.model import DeepfakeDetector\n"
        "from deepfake.runtime import make_runtime\n"
        f"model = DeepfakeDetector({TINY!r}, 64).eval()\n"
        "cpu = torch.device('cpu')\n"
        "runtimes = [make_runtime(model, cpu, 'openvino') for _ in range(3)]\n"
        "while runtimes:\n"
        "    del runtimes[0]\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_no_thread_is_tied_to_a_core(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """Several workers of one machine would be tied to the same one."""
    runtime = make_runtime(make_checkpoint().model, torch.device("cpu"), "openvino")
    views = np.zeros((len(VIEWS), 3, 64, 64), dtype=np.uint8)
    seen: set[frozenset[int]] = set()

    def look() -> None:
        while not done.wait(0.001):
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):
                    seen.add(frozenset(os.sched_getaffinity(int(task))))

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(100):
        runtime(views)
    done.set()
    looking.join()
    assert seen == {frozenset(os.sched_getaffinity(0))}
