"""One TorchServe process: start it, know when it can answer, stop it without leftovers.

Java is started directly: the ``torchserve`` command's wrapper leaves Java and the workers
behind when it is stopped by a signal.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import requests

from deploy import tokens
from deploy.java import find_java

UNASSIGNED = range(20_000, 32_768)  # the end: where Linux's ip_local_port_range begins
ROOT = Path(__file__).resolve().parent.parent
# For all that deploy/ asks on this machine. A proxy set in the environment would not find it here,
# and must see neither photos nor tokens.
HTTP = requests.Session()
HTTP.trust_env = False
HTTP.headers["Connection"] = "close"  # drain() looks at who is still connected


@dataclass(frozen=True)
class Ports:
    """Where TorchServe, and the page before it, listen on 127.0.0.1."""

    page: int = 5000
    inference: int = 8080
    management: int = 8081
    metrics: int = 8082


def in_the_way(port: int) -> OSError | None:
    """What keeps a server from listening on this port of 127.0.0.1; None if nothing does."""
    with socket.socket() as probe:
        # As servers do: what a closed connection leaves behind does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error
    return None


def free_ports(count: int) -> list[int]:
    """So many ports of 127.0.0.1 that nothing listens on.

    Below those that the system itself gives to connections, any of which could be made before a
    server has taken its port.
    """
    tried = random.sample(UNASSIGNED, len(UNASSIGNED))
    return list(islice((port for port in tried if in_the_way(port) is None), count))


def held_folder() -> tuple[str, int]:
    """A new temporary folder and a descriptor of it, to be closed when it is not needed any more.

    What is read once, at the start, looks forgotten to whatever tidies /tmp after some days.
    systemd-tmpfiles leaves a folder alone that is locked (tmpfiles.d(5)).
    """
    folder = tempfile.mkdtemp(prefix="deepfake-")
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return folder, descriptor


PATIENCE = 30.0  # seconds for a worker that cannot be loaded to say why, in one of its attempts


class State(enum.Enum):
    """What a TorchServe can do at a moment."""

    DEAD = "its process is not there"
    SILENT = "it says nothing of its model"
    WORKERLESS = "it has no worker, and will start one soon or never"
    STARTING = "its worker is starting"
    READY = "a worker is ready"


class TorchServe:
    """TorchServe with one model archive, on loopback.

    Args:
        model_store: folder with ``deepfake.mar``.
        logs: folder for its log files.
        ports: where to listen; they override config.properties.
        token: whether it asks for tokens, which ``key_file`` then holds.
    """

    def __init__(
        self, model_store: Path, logs: Path, ports: Ports | None = None, token: bool = False
    ) -> None:
        self.model_store, self.logs = model_store.resolve(), logs.resolve()
        self.ports = ports or Ports()
        self.token = token
        # The same after a restart, so that the page finds the new keys.
        self.key_file = self.logs / "keys" / tokens.NAME
        self.process: subprocess.Popen[bytes] | None = None
        self.temp = ""
        self._held: int | None = None
        self.retry_window = 300.0  # seconds in which it starts a dead worker again
        self._log_start = 0

    @property
    def url(self) -> str:
        """The inference address."""
        return f"http://127.0.0.1:{self.ports.inference}"

    def start(self) -> None:
        """Start Java; it unpacks the archive and starts the workers by itself."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / "torchserve.log"
        self._log_start = log.stat().st_size if log.exists() else 0
        # The archive is unpacked here and the workers' sockets lie here: short and private.
        self.temp, self._held = held_folder()
        if self.token:
            self.key_file.parent.mkdir(mode=0o700, exist_ok=True)
            self.key_file.unlink(missing_ok=True)
        with (self.logs / "console.log").open("ab") as console:
            self.process = subprocess.Popen(
                java_command(self.model_store, self.temp, ROOT / "deploy" / "log4j2.xml"),
                cwd=self.key_file.parent if self.token else self.temp,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us: we then stop the server in good order.
                start_new_session=True,
            )

    def wait_ready(self, timeout: float = 180) -> None:
        """Return once a worker is READY; ``/ping`` would say so long before.

        Raises:
            RuntimeError: the server ended, or the time (seconds) is up.
        """
        deadline = time.monotonic() + timeout
        failed: float | None = None
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError("TorchServe ended while starting")
            if self.ready():
                return
            reason = self._load_failure()
            if reason is not None:
                failed = failed or time.monotonic()
                if reason or time.monotonic() > failed + PATIENCE:
                    raise RuntimeError(f"the model cannot be loaded: {reason or 'the worker died'}")
            time.sleep(0.2)
        raise RuntimeError(f"no worker was ready after {timeout:.0f} s")

    def _load_failure(self) -> str | None:
        """What the log says of an archive or a worker that cannot be loaded ("" if it gives no
        reason), or None; TorchServe goes on without the one, and tries the other for minutes."""
        log = self.logs / "torchserve.log"
        if not log.is_file():
            return None
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._log_start)
            lines = [_line(line) for line in file]
        for event, error in lines:
            if event.startswith("Failed to load model"):
                return f"the archive is damaged ({error.strip().splitlines()[0]})"
        if not any("Load model failed" in event for event, _ in lines):
            return None
        errors = [re.match(r"[\w.]*?(\w+(?:Error|Exception): .+)", event) for event, _ in lines]
        reasons = [found[1] for found in errors if found]
        return reasons[-1] if reasons else ""

    def ready(self) -> bool:
        """Whether a worker of the model is READY."""
        return self.state() is State.READY

    def state(self) -> State:
        """What it can do now; ``/ping`` would say that all is well through most of it."""
        if self.process is None or self.process.poll() is not None:
            return State.DEAD
        model = self._model()
        if model is None:
            return State.SILENT
        self.retry_window = float(model["maxRetryTimeoutInSec"])
        if any(worker["status"] == "READY" for worker in model["workers"]):
            return State.READY
        starting = any(psutil.pid_exists(worker["pid"]) for worker in model["workers"])
        return State.STARTING if starting else State.WORKERLESS

    def drain(self, patience: float) -> bool:
        """Wait until it has answered what it was asked; False if it still works after so long.
        It cannot refuse new work meanwhile: lead whoever sends elsewhere before."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not self._connections() or self._idle():
                return True
            time.sleep(0.2)
        return False

    def stop(self, patience: float = 20) -> None:
        """Ask Java to end its workers and itself; after ``patience`` seconds, make it."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience)
            # Whatever is left: Java itself, or workers that a killed Java could not end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._held is not None:
            os.close(self._held)
            self._held = None
        shutil.rmtree(self.temp, ignore_errors=True)
        if self.token:
            shutil.rmtree(self.key_file.parent, ignore_errors=True)

    def _model(self) -> dict[str, Any] | None:
        """What the management API says of the model, or None."""
        url = f"http://127.0.0.1:{self.ports.management}/models/deepfake"
        try:
            bearer = tokens.headers(self.key_file, self.ports.management)
            model: dict[str, Any] = HTTP.get(url, headers=bearer, timeout=5).json()[0]
            return model if "workers" in model else None
        # Those of requests are OSErrors.
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError):
            return None

    def _connections(self) -> int:
        """How many clients are connected to the inference address."""
        return sum(
            c.status == psutil.CONN_ESTABLISHED and c.laddr[1:] == (self.ports.inference,)
            for c in psutil.net_connections("tcp")  # Java's are IPv6, mapped
        )

    def _idle(self) -> bool:
        """Whether nothing is queued and no worker computes: who is connected asks for nothing."""
        before = self._model()
        if before is None or before["jobQueueStatus"]["pendingRequests"]:
            return False
        pids = [int(worker["pid"]) for worker in before["workers"]]
        used = _cpu_seconds(pids)
        time.sleep(1)
        after = self._model()
        if after is None or after["jobQueueStatus"]["pendingRequests"]:
            return False
        return _cpu_seconds(pids) - used < 0.02

    def _environment(self) -> dict[str, str]:
        address = "http://127.0.0.1:{}"
        # PYTHONPATH would come before the archive, whose own code is to run.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {
            **inherited,
            "LOG_LOCATION": str(self.logs),
            "TS_INFERENCE_ADDRESS": address.format(self.ports.inference),
            "TS_MANAGEMENT_ADDRESS": address.format(self.ports.management),
            "TS_METRICS_ADDRESS": address.format(self.ports.metrics),
            "TS_METRICS_CONFIG": str(ROOT / "handler" / "metrics.yaml"),
            "TS_DISABLE_TOKEN_AUTHORIZATION": str(not self.token).lower(),
        }


def java_command(model_store: Path, temp: str, log_config: Path) -> list[str]:
    """The command line of TorchServe's Java, without the wrapper.

    Args:
        model_store: folder with ``deepfake.mar``.
        temp: folder in which it unpacks the archive and makes its workers' sockets.
        log_config: log4j's configuration.
    """
    site = sysconfig.get_paths()["purelib"]
    return [
        str(find_java()),
        f"-Dmodel_server_home={site}",
        f"-Djava.io.tmpdir={temp}",
        f"-Dlog4j.configurationFile=file://{log_config}",
        *_vmargs(ROOT / "config.properties"),
        "-cp",
        os.path.join(site, "ts", "frontend", "*"),
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(ROOT / "config.properties"),
        "-s",
        str(model_store),
        "-ncs",
    ]


def _vmargs(config: Path) -> list[str]:
    """Java's own options; the wrapper we leave out would have read them from the same line."""
    for line in config.read_text(encoding="utf-8").splitlines():
        if line.startswith("vmargs="):
            return line.removeprefix("vmargs=").split()
    return []


def _line(line: str) -> tuple[str, str]:
    """What a line of torchserve.log says, and the exception that belongs to it."""
    try:
        found = json.loads(line)
        return str(found["event"]), str(found["error"]) or "no reason given"
    except (ValueError, KeyError, TypeError):
        return "", ""


def _cpu_seconds(pids: list[int]) -> float:
    """CPU time that these processes have used, those included that have ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += sum(psutil.Process(pid).cpu_times()[:2])  # user and system
    return total
