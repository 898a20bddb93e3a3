"""Services under load: ours, and a peer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from deploy.torchserve import ROOT, Ports, TorchServe

PORTS = Ports(page=0, inference=18080, management=18081, metrics=18082)
PEER_PORT = 18090
ARCHIVE = ROOT / "model_store" / "deepfake.mar"


class Running:
    """A service that answers, and what it took to get there.

    Attributes:
        url: where it answers.
        seconds: from its start until it was ready.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url, seconds

    def worker_mb(self) -> float:
        """Memory of TorchServe's worker process at present, megabytes (resident set)."""
        management = f"http://127.0.0.1:{PORTS.management}/models/deepfake"
        (worker,) = requests.get(management, timeout=5).json()[0]["workers"]
        pages = int(Path(f"/proc/{worker['pid']}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def service(settings: Mapping[str, Any] | None = None) -> Iterator[Running]:
    """TorchServe with the archive of this tree, some lines of its model-config.yaml changed."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        store.mkdir()
        repack(ARCHIVE, store / ARCHIVE.name, settings or {})
        server = TorchServe(store, Path(folder, "logs"), PORTS)
        started = time.perf_counter()
        server.start()
        try:
            server.wait_ready()
            yield Running(server.url, time.perf_counter() - started)
        finally:
            server.stop()


def repack(source: Path, target: Path, settings: Mapping[str, Any]) -> None:
    """Copy an archive, with other settings in its model-config.yaml."""
    if not settings:
        shutil.copy(source, target)
        return
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "model-config.yaml":
                content = yaml.safe_dump({**yaml.safe_load(content), **settings}).encode()
            new.writestr(item, content)


@contextmanager
def peer() -> Iterator[Running]:
    """LitServe with the reference pipeline."""
    url = f"http://127.0.0.1:{PEER_PORT}"
    command = [sys.executable, "-m", "benchmarks.peer", str(PEER_PORT)]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not answers(f"{url}/health"):
            if process.poll() is not None or time.perf_counter() - started > 120:
                raise RuntimeError("the peer did not start")
            time.sleep(0.2)
        yield Running(url, time.perf_counter() - started)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers outlive anything else
        process.wait(30)


def answers(url: str) -> bool:
    """Whether something there says that all is well."""
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def load_of(
    url: str, route: str, photo: Path, clients: int, seconds: int, json_field: str = ""
) -> dict[str, float]:
    """What so many clients that never pause get out of a service (locust), after a warm-up.

    Args:
        json_field: of a JSON body that holds the photo as base64; else it is the raw body.
    """
    _locust(url, route, photo, clients, 3, json_field)
    row = _locust(url, route, photo, clients, seconds, json_field)
    times = sorted((float(ms), n) for ms, n in row["response_times"].items())
    spent = row["last_request_timestamp"] - row["start_time"]
    return {
        "requests_per_second": (row["num_requests"] - row["num_failures"]) / spent,
        "errors": row["num_failures"],
        "requests": row["num_requests"],
        **{f"p{q}": percentile(times, q) for q in (50, 95, 99)},
    }


def _locust(
    url: str, route: str, photo: Path, clients: int, seconds: int, json_field: str
) -> dict[str, Any]:
    command = [sys.executable, "-m", "locust", "-f", "benchmarks/locustfile.py", "--headless"]
    command += ["-u", str(clients), "-r", str(clients), "-t", f"{seconds}s", "--host", url]
    command += ["--json", "--exit-code-on-error", "0", "--stop-timeout", "120"]
    environment = {**os.environ, "PHOTO": str(photo), "ROUTE": route, "JSON_FIELD": json_field}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    row: dict[str, Any]
    (row,) = json.loads(done.stdout)
    return row


def percentile(times: list[tuple[float, int]], q: int) -> float:
    """The q-th percentile of (milliseconds, how often), in rising order."""
    wanted, seen = sum(n for _, n in times) * q / 100, 0
    for value, n in times:
        seen += n
        if seen >= wanted:
            return value
    raise ValueError("no requests")
