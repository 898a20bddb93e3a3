"""Measure everything side by side on this machine and write benchmarks/RESULTS.md.

(a) the reference pipeline   full-size MTCNN, three eager forward passes (benchmarks/reference.py)
(b) the library              deepfake.pipeline.Pipeline, as it is served
(c) the service              TorchServe under 1 to 64 clients (locust)
(d) the ceiling              the classifier alone; a large matrix product
(e) peers                    the reference behind LitServe; ViT-B/16, which is often picked

Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import torch

from benchmarks import inference, training
from benchmarks.report import SMALL, markdown, picture
from benchmarks.scenes import SCENES, phone_photo
from benchmarks.service import Running, load_of, peer, service
from deepfake.checkpoint import load
from deepfake.pipeline import Pipeline
from deploy.torchserve import ROOT
from training.cli import check_numbers, parser, run

CLIENTS = (1, 4, 16, 64)
ROUTE = "/predictions/deepfake"


def machine(pipeline: Pipeline, rounds: int, seconds: int) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "openvino": importlib.metadata.version("openvino"),
        "runtime": pipeline.runtime.name,
        "backbone": pipeline.model.backbone_name,
        "image_size": pipeline.model.image_size,
        "rounds": rounds,
        "seconds": seconds,
    }


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def loads(
    running: Running, route: str, photo: Path, seconds: int, json_field: str = ""
) -> dict[str, Any]:
    """The same photo from more and more clients."""
    found = {}
    for clients in CLIENTS:
        print(f"{running.url}, {clients} clients ...", flush=True)
        found[str(clients)] = load_of(running.url, route, photo, clients, seconds, json_field)
    return found


def our_service(photo: Path, seconds: int) -> dict[str, Any]:
    """(c): how soon it is ready, what it holds under load, and in how much memory."""
    with service() as running:
        found: dict[str, Any] = {
            "seconds_to_ready": running.seconds,
            "worker_mb_idle": running.worker_mb(),
            "loads": loads(running, ROUTE, photo, seconds),
        }
        large = phone_photo()
        with ThreadPoolExecutor(16) as clients:
            sent = [clients.submit(send, running.url + ROUTE, large) for _ in range(16)]
            assert all(answer.result() == 200 for answer in sent)
        found["worker_mb_after"] = running.worker_mb()
    return found


def send(url: str, photo: bytes) -> int:
    """The status of the answer to one photo."""
    headers = {"Content-Type": "image/jpeg"}
    return requests.post(url, data=photo, headers=headers, timeout=120).status_code


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--rounds", type=int, default=9, help="of every comparison")
    args.add_argument("--seconds", type=int, default=20, help="of each load")
    args.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="results' folder")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds", "seconds"))
    checkpoint = load(ROOT / "saved_model.pth")
    small = load(ROOT / "saved_model_small.pth")
    pipeline = Pipeline(checkpoint)
    pipeline.warm_up()
    result: dict[str, Any] = {"machine": machine(pipeline, opt.rounds, opt.seconds)}
    print("photos ...", flush=True)
    result["photos"] = inference.photos(checkpoint, pipeline, opt.rounds)
    print("the network ...", flush=True)
    result["classifiers"] = inference.classifiers(checkpoint, small, pipeline, opt.rounds)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(SCENES[SMALL]())
        file.flush()
        photo = Path(file.name)
        result["service"] = our_service(photo, opt.seconds)
        with peer() as running:
            result["peer"] = loads(running, "/predict", photo, opt.seconds, json_field="image")
    print("training ...", flush=True)
    result["training"] = training.throughput(load(ROOT / "saved_model.pth"), opt.rounds)
    opt.out.mkdir(parents=True, exist_ok=True)
    picture(result["photos"], opt.out / "request.png")
    (opt.out / "results.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (opt.out / "RESULTS.md").write_text(markdown(result), encoding="utf-8")
    print(f"wrote {opt.out / 'RESULTS.md'}")
    return 0


if __name__ == "__main__":
    run(main)
