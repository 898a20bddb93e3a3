"""Measure everything side by side on this machine and write benchmarks/RESULTS.md.

Rounds go over all contestants in turn, so that a machine that slows down slows all of them; a
figure is the median over the rounds, and what is claimed are ratios of figures of one run.

(a) the reference pipeline   full-size MTCNN, three eager forward passes (benchmarks/reference.py)
(b) the library              deepfake.pipeline.Pipeline, as it is served
(c) the service              TorchServe under 1 to 64 clients (locust)
(d) the ceiling              the classifier alone; a large matrix product
(e) peers                    the reference behind LitServe; ViT-B/16, which is often picked
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import ReferencePipeline
from benchmarks.scenes import SCENES
from deepfake.checkpoint import Checkpoint, load
from deepfake.pipeline import Pipeline, Verdict
from deepfake.runtime import make_runtime
from deploy.torchserve import ROOT, Ports, TorchServe
from training.cli import check_numbers, keep_memory, parser, run

PORTS = Ports(page=0, inference=18080, management=18081, metrics=18082)
PEER_PORT = 18090
CLIENTS = (1, 4, 16, 64)

Contestants = dict[str, Callable[[], object]]


def milliseconds(contestants: Contestants, rounds: int) -> dict[str, float]:
    """Median time of each, in milliseconds, over rounds that take all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for each in contestants.values():
        each()  # the first call of anything is slower
    for _ in range(rounds):
        for name, each in contestants.items():
            started = time.perf_counter()
            each()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def photos(checkpoint: Checkpoint, pipeline: Pipeline, rounds: int) -> dict[str, Any]:
    """(a) and (b) on every scene, and where the library's time goes."""
    reference = ReferencePipeline(checkpoint.model, checkpoint.crop_margin)
    rows = {}
    for name, make in SCENES.items():
        blob = make()
        (answer,) = pipeline.predict([blob])
        assert isinstance(answer, Verdict), answer
        rows[name] = milliseconds(
            {
                "reference": lambda blob=blob: reference(blob),
                "library": lambda blob=blob: pipeline.predict([blob]),
            },
            rounds,
        ) | {"faces": len(answer.faces), "stages": stages(pipeline, blob, rounds)}
    return rows


def stages(pipeline: Pipeline, blob: bytes, rounds: int) -> dict[str, float]:
    """Median milliseconds of each stage of one photo."""
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        pipeline.predict([blob], observe=lambda k, s: seen.setdefault(k, []).append(1000 * s))
    return {stage: statistics.median(values) for stage, values in seen.items()}


def classifiers(checkpoint: Checkpoint, pipeline: Pipeline, rounds: int) -> dict[str, Any]:
    """(d) and the ViT of (e): three views of one face, and what the processor could do."""
    model, size = checkpoint.model, checkpoint.model.image_size
    views = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    eager = make_runtime(model, torch.device("cpu"), "torch")
    vit = timm.create_model("vit_base_patch16_224", num_classes=2).eval()
    pixels = views.float() / 255
    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    contestants: Contestants = {
        pipeline.runtime.name: lambda: pipeline.runtime(views),
        "torch f32, eager": lambda: eager(views),
        "ViT-B/16, torch f32, eager": lambda: vit(pixels),
        "matrix product f32": lambda: a @ b,
        "matrix product bf16": lambda: a.bfloat16() @ b.bfloat16(),
    }
    with torch.inference_mode():
        found = milliseconds(contestants, rounds)
        with FlopCounterMode(display=False) as counter:
            model(model.preprocess(views))
    return {
        "milliseconds": found,
        "network_gflop": counter.get_total_flops() / 1e9,
        "matrix_gflops": {
            kind: 2 * side**3 / 1e6 / found[f"matrix product {kind}"] for kind in ("f32", "bf16")
        },
    }


@contextmanager
def service() -> Iterator[str]:
    """TorchServe with the archive of this tree; its URL."""
    with tempfile.TemporaryDirectory() as logs:
        server = TorchServe(ROOT / "model_store", Path(logs), PORTS)
        server.start()
        try:
            server.wait_ready()
            yield server.url
        finally:
            server.stop()


@contextmanager
def peer() -> Iterator[str]:
    """LitServe with the reference pipeline; its URL."""
    url = f"http://127.0.0.1:{PEER_PORT}"
    command = [sys.executable, "-m", "benchmarks.peer", str(PEER_PORT)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                if requests.get(f"{url}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                pass
            time.sleep(0.2)
        else:
            raise RuntimeError("the peer did not start")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def load_of(url: str, route: str, photo: Path, clients: int, seconds: int) -> dict[str, float]:
    """What so many clients that never pause get out of a service (locust)."""
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--headless"]
    command += ["-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--host", url]
    command += ["--json", "--exit-code-on-error", "0", "--stop-timeout", "120"]
    environment = {**os.environ, "PHOTO": str(photo), "ROUTE": route}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (row,) = json.loads(done.stdout)
    times = sorted((float(ms), n) for ms, n in row["response_times"].items())
    spent = row["last_request_timestamp"] - row["start_time"]
    return {
        "requests_per_second": row["num_requests"] / spent,
        "errors": row["num_failures"],
        "requests": row["num_requests"],
        **{f"p{q}": percentile(times, q) for q in (50, 95, 99)},
    }


def percentile(times: list[tuple[float, int]], q: int) -> float:
    """The q-th percentile of (milliseconds, how often)."""
    wanted, seen = sum(n for _, n in times) * q / 100, 0
    for value, n in times:
        seen += n
        if seen >= wanted:
            return value
    raise ValueError("no requests")


def markdown(result: dict[str, Any]) -> str:
    """The results as tables of ratios and times."""
    machine = result["machine"]
    lines = [
        "# How fast it is",
        "",
        f"Written by `make bench` on {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}, torch {machine['torch']}, {machine['runtime']}, "
        f"{machine['backbone']}; medians of {machine['rounds']} rounds in one run. Absolute times "
        "are of that machine; the ratios are what is claimed.",
        "",
        "| photo | faces | reference (a), ms | library (b), ms | a / b | where (b) spends it, ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["photos"].items():
        parts = ", ".join(f"{k} {v:.0f}" for k, v in row["stages"].items())
        lines.append(
            f"| {name} | {row['faces']} | {row['reference']:.0f} | {row['library']:.0f} "
            f"| **{row['reference'] / row['library']:.1f}** | {parts} |"
        )
    found = result["classifiers"]
    times, runtime = found["milliseconds"], machine["runtime"]
    lines += ["", "| three views of one face | ms | ratio to ours |", "|---|---|---|"]
    for name, ms in times.items():
        if not name.startswith("matrix"):
            lines.append(f"| {name} | {ms:.1f} | {ms / times[runtime]:.2f} |")
    reached = found["network_gflop"] / times[runtime] * 1000
    peaks = ", ".join(f"{v:.0f} in {k}" for k, v in found["matrix_gflops"].items())
    lines += [
        "",
        f"Three views cost {found['network_gflop']:.1f} GFLOP: {reached:.0f} GFLOP/s reached; a "
        f"matrix product of 2048 x 2048 reaches {peaks}.",
        "",
        "| 256 px photo | clients | requests/s | share of the library's | p50, ms | p95 | p99 "
        "| errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    small = result["photos"]["256 x 256, one face"]["library"]
    for name, rows in (("service (c)", result["service"]), ("LitServe, eager (e)", result["peer"])):
        for clients, row in rows.items():
            share = row["requests_per_second"] * small / 1000
            lines.append(
                f"| {name} | {clients} | {row['requests_per_second']:.1f} | {share:.0%} "
                f"| {row['p50']:.0f} | {row['p95']:.0f} | {row['p99']:.0f} | {row['errors']} |"
            )
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--rounds", type=int, default=7, help="of every comparison")
    args.add_argument("--seconds", type=int, default=20, help="of each load")
    args.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("rounds", "seconds"))
    keep_memory()
    checkpoint = load(ROOT / "saved_model.pth")
    pipeline = Pipeline(checkpoint)
    pipeline.warm_up()
    result: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "runtime": pipeline.runtime.name,
            "backbone": pipeline.model.backbone_name,
            "rounds": opt.rounds,
        }
    }
    print("photos ...", flush=True)
    result["photos"] = photos(checkpoint, pipeline, opt.rounds)
    print("classifiers ...", flush=True)
    result["classifiers"] = classifiers(checkpoint, pipeline, opt.rounds)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(SCENES["256 x 256, one face"]())
        file.flush()
        for kind, start, route in (
            ("service", service, "/predictions/deepfake"),
            ("peer", peer, "/predict"),
        ):
            with start() as url:
                result[kind] = {}
                for clients in CLIENTS:
                    print(f"{kind}, {clients} clients ...", flush=True)
                    result[kind][clients] = load_of(
                        url, route, Path(file.name), clients, opt.seconds
                    )
    opt.out.write_text(markdown(result), encoding="utf-8")
    opt.out.with_suffix(".json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(markdown(result))
    return 0


if __name__ == "__main__":
    run(main)
