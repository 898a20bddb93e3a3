"""Start TorchServe and the page, wait until a photo can be judged, and say where.

Ctrl-C (or `make stop`) stops both; nothing is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import requests

from deploy.stop import LOGS, PID_FILE
from deploy.torchserve import ROOT, Ports, TorchServe, is_free


class Stopped(Exception):
    """Ctrl-C or SIGTERM came: stop in good order."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    ports = Ports()
    parser.add_argument("--page-port", type=int, default=ports.page)
    parser.add_argument("--inference-port", type=int, default=ports.inference)
    parser.add_argument("--management-port", type=int, default=ports.management)
    parser.add_argument("--metrics-port", type=int, default=ports.metrics)
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--logs", type=Path, default=LOGS, help="folder for the log files")
    parser.add_argument(
        "--token",
        action="store_true",
        help="TorchServe answers only with a token, which the page has: for machines whose other "
        "users are not to use it",
    )
    parser.add_argument("--timeout", type=float, default=180, help="seconds to become ready")
    return parser.parse_args()


def check_ports(opt: argparse.Namespace) -> None:
    """RuntimeError naming the first port that another program holds."""
    for name in ("page_port", "inference_port", "management_port", "metrics_port"):
        port = getattr(opt, name)
        if not is_free(port):
            flag = f"--{name.replace('_', '-')}"
            raise RuntimeError(
                f"port {port} is in use; stop what holds it ('make stop', if it is ours) or "
                f"choose another: make serve ARGS='{flag} {port + 1000}'"
            )


@contextlib.contextmanager
def page(opt: argparse.Namespace, server: TorchServe) -> Iterator[subprocess.Popen[bytes]]:
    """The Flask page under gunicorn."""
    environment = {
        **os.environ,
        "DEEPFAKE_TORCHSERVE_URL": f"http://127.0.0.1:{opt.inference_port}",
        "DEEPFAKE_MANAGEMENT_URL": f"http://127.0.0.1:{opt.management_port}",
    }
    if server.token:
        environment["DEEPFAKE_TOKEN_FILE"] = str(server.key_file)
    command = [sys.executable, "-m", "gunicorn", "--config", "python:frontend.server"]
    command += ["--bind", f"127.0.0.1:{opt.page_port}", "frontend.app:create_app()"]
    with (opt.logs / "page.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_page(url: str, process: subprocess.Popen[bytes], timeout: float = 30) -> None:
    """Return once the page and the model behind it are ready; RuntimeError otherwise."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/readyz", timeout=5).ok:
                return
        time.sleep(0.2)
    raise RuntimeError("the page did not start")


def banner(page_url: str, server: TorchServe) -> str:
    sample = ROOT / "tests" / "fixtures" / "astronaut.jpg"
    attempt = f"curl -T {sample} {server.url}/predictions/deepfake"
    if server.token:
        attempt = f"curl -F image=@{sample} {page_url}/api/detect"
    return f"""
  ready

  page      {page_url}
  service   {server.url}/predictions/deepfake
  metrics   http://127.0.0.1:{server.ports.metrics}/metrics

  try       {attempt}

  Ctrl-C stops it.
"""


def serve(opt: argparse.Namespace) -> None:
    """Run both servers until one of them ends or we are told to stop."""
    check_ports(opt)
    opt.logs.mkdir(parents=True, exist_ok=True)
    pid_file = opt.logs / PID_FILE
    ports = Ports(opt.page_port, opt.inference_port, opt.management_port, opt.metrics_port)
    server = TorchServe(opt.model_store, opt.logs, ports, opt.token)
    page_url = f"http://127.0.0.1:{ports.page}"
    print("starting TorchServe and loading the model ...", flush=True)
    try:
        server.start()
        with page(opt, server) as flask:
            assert server.process is not None
            pids = {"serve": os.getpid(), "torchserve": server.process.pid, "page": flask.pid}
            pid_file.write_text(json.dumps(pids), encoding="utf-8")
            server.wait_ready(opt.timeout)
            wait_for_page(page_url, flask)
            print(banner(page_url, server), flush=True)
            while server.process.poll() is None and flask.poll() is None:
                time.sleep(0.5)
            raise RuntimeError("a server ended by itself")
    finally:
        server.stop()
        pid_file.unlink(missing_ok=True)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    # A second one, out of impatience, must not break off the stopping.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def main() -> int:
    opt = arguments()
    # SIGINT too: a program started in the background by a shell inherits it ignored.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _on_signal)
    try:
        serve(opt)
    except Stopped:
        print("\nstopped")
    except (RuntimeError, OSError) as error:
        print(f"error: {error}\nThe logs are in {opt.logs}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
