"""Look over this machine: each line says OK, or what to do.

Exit status 1 when something is missing that serving or training needs.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from deploy.java import OLDEST, find_java, java_version
from deploy.torchserve import Ports, in_the_way
from training.cli import parser, run


@dataclass(frozen=True)
class Line:
    """One finding. ``ok`` is None for what is good to know but not needed."""

    name: str
    ok: bool | None
    text: str


def check_python() -> Line:
    version = platform.python_version()
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Line("Python", ok, version if ok else f"{version}: use Python 3.11 or 3.12")


def check_pytorch() -> Line:
    return Line("PyTorch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_cuda() -> Line:
    if not torch.cuda.is_available():
        return Line("CUDA", None, "no GPU is seen: serving is fine on a CPU, training is slow")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Line("CUDA", True, f"{torch.version.cuda}, {', '.join(names)}")


def check_cudnn() -> Line:
    if not torch.cuda.is_available():
        return Line("cuDNN", None, "not used without a GPU")
    version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    ok = version is not None
    return Line("cuDNN", ok, str(version) if ok else "not found: install a CUDA build of torch")


def check_torchvision() -> Line:
    """torchvision's compiled operators fail to load beside a torch they were not built for."""
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.9, 0.8]), 0.5)
    ok = kept.tolist() == [0]
    version = importlib.metadata.version("torchvision")
    return Line("torchvision ops", ok, version if ok else "nms is wrong: reinstall torchvision")


def check_mtcnn() -> Line:
    from PIL import Image

    from deepfake.faces import FaceDetector

    FaceDetector()(Image.new("RGB", (64, 64)))
    return Line("MTCNN weights", True, "from the package; they run")


def check_java() -> Line:
    java = find_java()
    version = java_version(java) or 0
    ok = version >= OLDEST
    return Line("Java", ok, f"{version}, {java}" if ok else f"{java} does not run")


def check_torchserve() -> Line:
    versions = [importlib.metadata.version(n) for n in ("torchserve", "torch-model-archiver")]
    return Line("TorchServe", True, f"{versions[0]}, archiver {versions[1]}")


def check_checkpoint(path: Path) -> Line:
    from deepfake.checkpoint import load

    checkpoint = load(path)
    model = checkpoint.model
    text = f"{path}, {model.backbone_name}, {model.image_size} px, {checkpoint.sha256[:12]}"
    return Line("checkpoint", True, text)


def check_port(name: str, port: int) -> Line:
    reason = in_the_way(port)
    text = "is free"
    if isinstance(reason, PermissionError):
        text = "may not be used by this user; choose another (see serve's --help)"
    elif reason:
        text = "is in use: 'make stop', or another port (see serve's --help)"
    return Line(f"port, {name}", reason is None, f"{port} {text}")


def check_forward(path: Path) -> Line:
    """One face, three views, on this machine's CPU; the median of five."""
    from PIL import Image

    from deepfake.pipeline import Pipeline

    pipeline = Pipeline.from_file(path)
    pipeline.warm_up()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        pipeline.classify([Image.new("RGB", (224, 224), "grey")])
        times.append(time.perf_counter() - started)
    spent = f"{sorted(times)[2] * 1000:.0f} ms for one face, 3 views"
    return Line("forward pass", True, f"{spent}, {pipeline.runtime.name}")


def look(checkpoint: Path) -> list[Line]:
    """All findings, each even when those before it failed."""
    checks: list[tuple[str, Callable[[], Line]]] = [
        ("Python", check_python),
        ("PyTorch", check_pytorch),
        ("CUDA", check_cuda),
        ("cuDNN", check_cudnn),
        ("torchvision ops", check_torchvision),
        ("MTCNN weights", check_mtcnn),
        ("Java", check_java),
        ("TorchServe", check_torchserve),
        ("checkpoint", lambda: check_checkpoint(checkpoint)),
        ("forward pass", lambda: check_forward(checkpoint)),
        *((f"port, {n}", lambda n=n, p=p: check_port(n, p)) for n, p in asdict(Ports()).items()),
    ]
    return [_guarded(name, check) for name, check in checks]


def _guarded(name: str, check: Callable[[], Line]) -> Line:
    try:
        return check()
    except Exception as error:  # whatever it is: the report is where it belongs
        text = (str(error).splitlines() or [""])[0]
        missing = isinstance(error, ImportError | importlib.metadata.PackageNotFoundError)
        return Line(name, False, f"{text}; run 'make setup'" if missing else text)


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--json", action="store_true", help="print JSON")
    opt = args.parse_args()
    lines = look(opt.checkpoint)
    if opt.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        words = {True: "OK  ", False: "FAIL", None: "note"}
        for line in lines:
            print(f"{words[line.ok]}  {line.name:<17} {line.text}")
    return int(any(line.ok is False for line in lines))


if __name__ == "__main__":
    run(main)
