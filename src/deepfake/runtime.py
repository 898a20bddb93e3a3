"""How the network runs: OpenVINO on a CPU, PyTorch elsewhere, behind one call."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepfake.errors import CheckpointError
from deepfake.model import DeepfakeDetector
from deepfake.views import VIEWS, Pixels

RUNTIMES = ("auto", "openvino", "torch")
AT_ONCE = 96  # views in one pass of PyTorch: what it needs must not grow with the batch
TOLERANCE = 0.01  # of P(fake): where bfloat16 is further off than this, float32 is used
log = logging.getLogger(__name__)


ArrayFunction = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]


class Runtime(Protocol):
    """A network that is ready to run."""

    name: str
    """What runs it, and how: "openvino bf16", "torch f32" ..."""

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Views of faces, uint8 (N * 3, 3, S, S) -> logits, float32 (N * 3, 2)."""
        ...


def make_runtime(
    model: DeepfakeDetector, device: torch.device, wanted: str = "auto", temperature: float = 1.0
) -> Runtime:
    """The model, ready to run.

    Args:
        model: in eval mode.
        device: where PyTorch runs it; OpenVINO runs on the CPU only.
        wanted: one of ``RUNTIMES``; auto is OpenVINO on a CPU, PyTorch elsewhere and where
            OpenVINO is not installed or cannot convert the model.
        temperature: of the softmax that the logits are for; the lower it is, the more precise
            they must be.

    Raises:
        CheckpointError: the runtime is unknown, or OpenVINO is wanted and cannot be had.
    """
    if wanted not in RUNTIMES:
        raise CheckpointError(f"The runtime {wanted!r} is unknown, only {', '.join(RUNTIMES)} are.")
    if wanted == "torch":
        return torch_runtime(model, device, temperature)
    try:
        if device.type != "cpu":
            raise CheckpointError("OpenVINO runs on a CPU only")
        if importlib.util.find_spec("openvino") is None:
            raise CheckpointError("OpenVINO is not installed")
        return openvino_runtime(model, temperature)
    except Exception as error:  # the converter refuses a network in many types
        if wanted == "openvino":
            raise CheckpointError(
                f"{_first_line(error)}; take the runtime auto or torch."
            ) from error
        log.info("PyTorch runs the network: %s", _first_line(error))
        return torch_runtime(model, device, temperature)


class TorchRuntime:
    """PyTorch as it is, in float32 or, where ``half``, in bfloat16.

    The model is taken over: it is moved to the device and laid out anew, in place.
    """

    def __init__(self, model: DeepfakeDetector, device: torch.device, half: bool = False) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device, self.half = device, half
        self.name = f"torch {'bf16' if self.half else 'f32'}"

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        starts = range(0, len(pixels), AT_ONCE)
        return np.concatenate([self._pass(pixels[i : i + AT_ONCE]) for i in starts])

    @torch.inference_mode()
    def _pass(self, pixels: Pixels) -> NDArray[np.float32]:
        x = self.model.preprocess(torch.from_numpy(pixels).to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        answer: NDArray[np.float32] = logits.float().cpu().numpy()
        return answer


def torch_runtime(
    model: DeepfakeDetector, device: torch.device, temperature: float = 1.0
) -> TorchRuntime:
    """On a GPU bfloat16 where the answers agree, else float32."""
    exact = TorchRuntime(model, device)
    if device.type != "cuda":
        return exact
    fast = TorchRuntime(model, device, half=True)
    return fast if agree(fast, exact, model.image_size, temperature) else exact


def agree(fast: Runtime, exact: Runtime, image_size: int, temperature: float) -> bool:
    """Whether two runtimes' P(fake) of a few pictures are as near as ``TOLERANCE`` asks for."""

    def difference(views: Pixels) -> float:
        one, other = (probability(run(views), temperature) for run in (fast, exact))
        return float(np.abs(one - other).max())

    # Half of it: a few probes do not show the largest difference that photos would.
    return all(difference(views) <= TOLERANCE / 2 for views in _probes(image_size))


def probability(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Logits (N, 2) -> P(fake) (N,): the softmax of two, which is a sigmoid of their difference."""
    margin = (logits[:, 1].astype(np.float64) - logits[:, 0]) / temperature
    p_fake: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(margin / 2)  # which never overflows
    return p_fake


class OpenVinoRuntime:
    """OpenVINO on the CPU, compiled for the three views of one face.

    On a CPU larger batches gain nothing, and a fixed shape runs fastest.

    Args:
        network: what ``converted`` returned.
        precision: "f32" or "bf16".
    """

    def __init__(self, network: Any, precision: str) -> None:
        self.network = _compile(network, precision)
        self.name = f"openvino {precision}"

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        faces = pixels.reshape(-1, len(VIEWS), *pixels.shape[1:])
        return np.concatenate([self.network(face)[0].copy() for face in faces])


def openvino_runtime(model: DeepfakeDetector, temperature: float = 1.0) -> OpenVinoRuntime:
    """bfloat16 where the processor has it and the answers agree, else float32."""
    network = converted(model)
    exact = OpenVinoRuntime(network, "f32")
    if "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return exact
    fast = OpenVinoRuntime(network, "bf16")
    return fast if agree(fast, exact, model.image_size, temperature) else exact


def converted(model: DeepfakeDetector) -> Any:
    """The model as an OpenVINO network: the three views of a face, uint8 -> logits, float32.

    Made anew at every start: it takes less than two seconds, and a second file of weights could
    be stale.
    """
    size = model.image_size
    example = torch.zeros(len(VIEWS), 3, size, size, dtype=torch.uint8)
    return _converted(_Normalising(model), example, tuple(example.shape))


def compiled(module: nn.Module, shape: tuple[int, ...], example: tuple[int, ...]) -> ArrayFunction:
    """A small network as a function of an array: OpenVINO where it is installed, else PyTorch.

    Args:
        module: in eval mode; takes one float32 tensor and returns a tuple of them.
        shape: of its input, -1 where it may vary.
        example: a shape of this kind.

    Returns:
        A function that several threads may call at once.
    """
    if importlib.util.find_spec("openvino") is None:

        @torch.inference_mode()
        def in_torch(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            return [answer.numpy() for answer in module(torch.from_numpy(pixels))]

        return in_torch
    network = _compile(_converted(module, torch.zeros(example), shape), "f32")
    # One request for all threads, each in its turn: it keeps all cores busy by itself, and OpenVINO
    # was seen to crash where a request is made while another runs.
    request, turn = network.create_infer_request(), threading.Lock()

    def in_openvino(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with turn:
            return [np.array(answer) for answer in request.infer(pixels).values()]

    return in_openvino


def _converted(module: nn.Module, example: Tensor, shape: tuple[int, ...]) -> Any:
    # Traced, not exported: after dozens of exports in one process Python 3.11 was seen to crash.
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch means to retire tracing
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, example, check_trace=False
        )
        return _openvino().convert_model(traced, example_input=example, input=list(shape))


def _compile(network: Any, precision: str) -> Any:
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Else every process ties its threads to the same cores, the first ones: two workers of one
        # thread each judged 5 photos a second on two cores, and 11 without.
        "ENABLE_CPU_PINNING": False,
    }
    return _core().compile_model(network, "CPU", options)


class _Normalising(nn.Module):
    """The detector from pixels on, so that normalising is part of the compiled network."""

    def __init__(self, model: DeepfakeDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(self.model.preprocess(pixels))
        return logits


def _probes(size: int) -> Iterator[Pixels]:
    """Views from flat to noisy; precisions that agree on these agree on photos."""
    generator = torch.Generator().manual_seed(0)
    for side in (2, 8, 32, size):
        coarse = torch.rand(len(VIEWS), 3, side, side, generator=generator) * 255
        yield nn.functional.interpolate(coarse, (size, size), mode="bilinear").byte().numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


@cache
def _core() -> Any:
    """One for the whole process, never given up.

    OpenVINO's plugin for the CPU gives the thread that loads it a stack for its signals (for AMX),
    and takes the memory back with the last network of its core. Of two cores the second leaves the
    thread with the first's, which is gone then: the next signal that Python handles, SIGTERM or the
    end of a child, would end the process with SIGSEGV.
    """
    return _openvino().Core()


def _openvino() -> Any:
    """The package, without what it would report about its use over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
