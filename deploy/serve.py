"""Start TorchServe and the page, wait until a photo can be judged, and say where.

Ctrl-C (or `make stop`) stops both, after what is under way; nothing is left behind. What ends by
itself is started again. `make roll` moves both to a new version of the model.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from deploy.stop import LOGS
from deploy.supervisor import Supervisor, say
from deploy.torchserve import ROOT, Ports, TorchServe, in_the_way

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed


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
    """RuntimeError naming the first port that cannot be had."""
    taken: dict[int, str] = {}
    for name in ("page_port", "inference_port", "management_port", "metrics_port"):
        port, flag = getattr(opt, name), f"--{name.replace('_', '-')}"
        if not 0 < port < 65536:
            raise RuntimeError(f"{flag} is {port}, which is no port: 1 to 65535")
        if port in taken:
            raise RuntimeError(f"{taken[port]} and {flag} are both {port}; give each its own")
        taken[port] = flag
        reason = in_the_way(port)
        if reason is None:
            continue
        other = port + 1000 if port < 64536 else port - 1000
        if isinstance(reason, PermissionError):  # those below 1024 are the administrator's
            problem = f"port {port} may not be used by this user;"
        else:
            problem = f"port {port} is in use; stop what holds it ('make stop', if it is ours) or"
        raise RuntimeError(f"{problem} choose another: make serve ARGS='{flag} {other}'")


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
    """Run both servers until we are told to stop, or one cannot be kept running."""
    check_ports(opt)
    ports = Ports(opt.page_port, opt.inference_port, opt.management_port, opt.metrics_port)
    print("starting TorchServe and loading the model ...", flush=True)
    supervisor = Supervisor(opt.model_store, opt.logs, ports, opt.timeout, opt.token)
    signal.signal(signal.SIGUSR1, lambda signum, frame: supervisor.want_roll())
    try:
        supervisor.start()
        print(banner(supervisor.page.url, supervisor.server), flush=True)
        supervisor.run()
    except Stopped:
        say("finishing what is under way ...")
        raise
    finally:
        _be_left_alone()
        supervisor.stop()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    _be_left_alone()
    raise Stopped


def _be_left_alone() -> None:
    """A signal, out of impatience, must not break off the stopping."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)


def main() -> int:
    opt = arguments()
    # SIGINT too: a program started in the background by a shell inherits it ignored. SIGHUP is
    # ignored on purpose, by nohup.
    hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    for each in STOPS:
        if not (each is signal.SIGHUP and hangup_ignored):
            signal.signal(each, _on_signal)
    try:
        serve(opt)
    except Stopped:
        say("stopped")
    except (RuntimeError, OSError) as error:
        print(f"error: {error}\nThe logs are in {opt.logs}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
