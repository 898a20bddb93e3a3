"""Mixed load on the whole service for a while: does its memory, its latency, anything change?

Starts the service as `make serve` does, on free ports, and sends photos of every kind, good and
bad, through the page and to TorchServe itself. Prints a table of time slices and writes
build/soak.json. Exit status 1 when a request had no answer, or one that is the service's fault.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from PIL import Image

from deploy.torchserve import ROOT, free_ports

SLICES = 10
OUT = ROOT / "build" / "soak.json"
PHOTOS = sorted((ROOT / "tests" / "fixtures").glob("*.jpg"))


@dataclass(frozen=True)
class Answer:
    """When it came (seconds from the start), how long it took, what it was."""

    at: float
    seconds: float
    end: str
    fine: bool


def uploads() -> list[bytes]:
    """Photos as people send them; every fourth cannot be judged."""
    photos = [path.read_bytes() for path in PHOTOS]
    with Image.open(PHOTOS[0]) as photo:
        rgb = photo.convert("RGB")
        large = [encode(rgb.resize(size), "JPEG") for size in ((4000, 3000), (2400, 3200))]
        others = [encode(rgb, kind) for kind in ("PNG", "WEBP", "TIFF")]
    bad = [b"", b"no photo", photos[0][:9000], encode(Image.new("L", (640, 480), 99), "PNG")]
    return photos + large + others + bad + bad[1:3]


def encode(image: Image.Image, kind: str) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


class Soak:
    """The load and what became of it.

    Args:
        page, service: the addresses that are asked, in turns.
        seconds: how long.
    """

    def __init__(self, page: str, service: str, seconds: float) -> None:
        self.page, self.service, self.seconds = page, service, seconds
        self.started = time.monotonic()
        self.answers: list[Answer] = []
        self.memory: list[dict[str, float]] = []

    def client(self, seed: int) -> None:
        """One person who goes on sending photos."""
        rng, photos = random.Random(seed), uploads()
        while time.monotonic() - self.started < self.seconds:
            self.answers.append(self._ask(rng, rng.choice(photos)))

    def _ask(self, rng: random.Random, photo: bytes) -> Answer:
        kind = rng.randrange(3)
        request: dict[str, Any] = {"files": {"image": photo}} if kind == 0 else {"data": photo}
        url = self.service if kind == 2 else f"{self.page}/api/detect?crops=true"
        begun = time.monotonic()
        try:
            answer = requests.post(url, timeout=90, **request)
            end, fine = str(answer.status_code), answer.status_code < 500
        except requests.RequestException as error:
            end, fine = type(error).__name__, False
        now = time.monotonic()
        return Answer(now - self.started, now - begun, end, fine)

    def watch(self, pids: dict[str, int]) -> None:
        """Note the memory of each process once a second."""
        while time.monotonic() - self.started < self.seconds:
            found = {name: megabytes(pid) for name, pid in pids.items()}
            self.memory.append({"at": time.monotonic() - self.started, **found})
            time.sleep(1)

    def slice(self, number: int) -> dict[str, Any]:
        """Figures of one tenth of the time."""
        low, high = (self.seconds * n / SLICES for n in (number, number + 1))
        answers = [a for a in self.answers if low <= a.at < high]
        memory = [m for m in self.memory if low <= m["at"] < high]
        times = sorted(a.seconds for a in answers)
        return {
            "until_s": round(high),
            "requests": len(answers),
            "failed": sum(not a.fine for a in answers),
            "p50_s": round(statistics.median(times), 2) if times else None,
            "p95_s": round(times[int(0.95 * (len(times) - 1))], 2) if times else None,
            **{f"{k}_mb": round(v) for row in memory[-1:] for k, v in row.items() if k != "at"},
        }


def megabytes(pid: int) -> float:
    """Resident memory of a process and its children, without what belongs to other rows."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children()] if "gunicorn" in process.cmdline() else [process]
        return float(sum(p.memory_info().rss for p in family)) / 2**20
    except psutil.Error:
        return 0.0


def processes(logs: Path, management: int) -> dict[str, int]:
    """The worker, Java and the page."""
    record = json.loads((logs / "serve.json").read_text(encoding="utf-8"))
    model = requests.get(f"http://127.0.0.1:{management}/models/deepfake", timeout=5).json()[0]
    (worker,) = model["workers"]
    return {"worker": worker["pid"], "java": record["torchserve"][0], "page": record["page"]}


def table(slices: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(slices[0])
    rows = [names, ["---:"] * len(names), *([str(s[n]) for n in names] for s in slices)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(soak: Soak) -> dict[str, Any]:
    """The whole run in figures; memory in MB at the start, the end and the highest."""
    memory = {
        name: {
            "start": round(soak.memory[0][name]),
            "end": round(soak.memory[-1][name]),
            "max": round(max(m[name] for m in soak.memory)),
        }
        for name in soak.memory[0]
        if name != "at"
    }
    return {
        "seconds": soak.seconds,
        "requests": len(soak.answers),
        "ended": dict(sorted(Counter(a.end for a in soak.answers).items())),
        "failed": sum(not a.fine for a in soak.answers),
        "memory_mb": memory,
        "slices": [soak.slice(n) for n in range(SLICES)],
    }


def run(seconds: float, clients: int) -> dict[str, Any]:
    """Start the service, load it, stop it; what was seen."""
    ports = dict(zip(("page", "inference", "management", "metrics"), free_ports(4), strict=True))
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = [text for n, p in ports.items() for text in (f"--{n}-port", str(p))]
        command = [sys.executable, "-m", "deploy.serve", *options, "--logs", str(logs)]
        process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))
        stack.callback(process.terminate)
        assert process.stdout is not None
        if not any(b"Ctrl-C" in line for line in process.stdout):
            raise RuntimeError("the service did not start")
        page = f"http://127.0.0.1:{ports['page']}"
        service = f"http://127.0.0.1:{ports['inference']}/predictions/deepfake"
        pids = processes(logs, ports["management"])
        soak = Soak(page, service, seconds)
        threads = [threading.Thread(target=soak.client, args=(n,)) for n in range(clients)]
        threads.append(threading.Thread(target=soak.watch, args=(pids,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        same = pids == processes(logs, ports["management"])
    return summary(soak) | {"clients": clients, "nothing_restarted": same}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=6)
    opt = parser.parse_args()
    found = run(opt.seconds, opt.clients)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found["slices"]))
    print(json.dumps({k: v for k, v in found.items() if k != "slices"}))
    return 1 if found["failed"] or not found["nothing_restarted"] else 0


if __name__ == "__main__":
    sys.exit(main())
