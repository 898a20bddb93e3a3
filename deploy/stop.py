"""Stop what `make serve` started, by the process ids it wrote down.

Runs with any Python 3, without the virtual environment.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

LOGS = Path(__file__).resolve().parent.parent / "logs"
PID_FILE = "serve.json"  # in the folder of the logs
# What the command line of each must hold: a number may by now belong to another program.
MARKS = {"serve": "deploy.serve", "torchserve": "org.pytorch.serve", "page": "frontend.app"}


def alive(pid: int, mark: str) -> bool:
    """Whether the process is still the one that was written down."""
    try:
        return mark in Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
    except OSError:
        return False


def end(pid: int, mark: str, patience: float) -> None:
    """SIGTERM, and SIGKILL to its whole group when it is still there after so many seconds."""
    if not alive(pid, mark):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while alive(pid, mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive(pid, mark):
        os.killpg(os.getpgid(pid), signal.SIGKILL)


def main() -> int:
    """Stop the launcher, which stops the others; then whatever it may have left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, default=LOGS, help="the folder serve was given")
    pid_file = parser.parse_args().logs / PID_FILE
    if not pid_file.exists():
        print("nothing is running")
        return 0
    record = json.loads(pid_file.read_text(encoding="utf-8"))
    # The launcher gives the page 65 seconds to finish, TorchServe 20, and then ends them.
    end(record["serve"], MARKS["serve"], patience=140)
    for name in ("page", "torchserve"):
        pids = record[name] if isinstance(record[name], list) else [record[name]]
        for pid in filter(None, pids):
            end(pid, MARKS[name], patience=75 if name == "page" else 25)
    for folder in filter(None, record["folders"]):
        if Path(folder).name.startswith("deepfake-"):
            shutil.rmtree(folder, ignore_errors=True)
    pid_file.unlink(missing_ok=True)
    print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
