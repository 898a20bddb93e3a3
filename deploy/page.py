"""The page's process: the Flask application under gunicorn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import requests

from deploy.torchserve import HTTP, ROOT

GRACE = 65  # seconds to finish what it is doing; it waits 60 s for an answer


class Page:
    """The page on 127.0.0.1.

    Args:
        port: where it listens.
        logs: folder for its log files.
        switch: the file that names the TorchServe to ask.
    """

    def __init__(self, port: int, logs: Path, switch: Path) -> None:
        self.port, self.logs, self.switch = port, logs, switch
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start gunicorn; requests that come from then on are answered."""
        environment = {
            **os.environ,
            "DEEPFAKE_BACKEND_FILE": str(self.switch),
            "DEEPFAKE_LOG_FILE": str(self.logs / "page.log"),
        }
        command = [sys.executable, "-m", "gunicorn", "--config", "python:frontend.server"]
        command += ["--graceful-timeout", str(GRACE), "--bind", f"127.0.0.1:{self.port}"]
        with (self.logs / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "frontend.app:create_app()"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def ready(self) -> bool:
        """Whether the page, and the model behind it, would judge a photo now."""
        try:
            return HTTP.get(f"{self.url}/readyz", timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """Take nothing new, finish what is under way, end; after ``GRACE`` seconds in any case."""
        if self.process is None:
            return
        if self.running():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what a killed master leaves behind
        self.process.wait()
