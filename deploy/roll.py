"""Move the running service to the archive in model_store, or back to the one before it.

No request is lost: see deploy/supervisor.py. A version that does not start or answer is refused,
and the old one never stops serving.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from deploy.stop import LOGS, MARKS, PID_FILE, alive
from deploy.supervisor import REFUSED


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--back", action="store_true", help="to the version before this one")
    parser.add_argument("--logs", type=Path, default=LOGS, help="the folder serve was given")
    parser.add_argument("--timeout", type=float, default=600, help="seconds to wait for it")
    return parser.parse_args()


def swap(model_store: Path) -> None:
    """Exchange ``deepfake.mar`` and ``previous/deepfake.mar``."""
    now, before = model_store / "deepfake.mar", model_store / "previous" / "deepfake.mar"
    if not before.exists():
        raise RuntimeError(f"there is no earlier version in {before.parent}")
    part = before.with_name("swap")
    os.replace(now, part)
    os.replace(before, now)
    os.replace(part, before)
    now.touch()  # or make would build the newer one again


def read(logs: Path) -> dict[str, Any]:
    """What runs; RuntimeError when nothing does."""
    try:
        record: dict[str, Any] = json.loads((logs / PID_FILE).read_text(encoding="utf-8"))
    except OSError:
        record = {"serve": 0}
    if not alive(record["serve"], MARKS["serve"]):
        raise RuntimeError("the service is not running; `make serve` starts it")
    return record


def roll(logs: Path, timeout: float, back: bool) -> str:
    """What has happened; RuntimeError with the reason when the old version stays."""
    record = read(logs)
    if record["rolling"]:
        raise RuntimeError("a roll is under way; try again when it is over")
    store = Path(record["model_store"])
    if back:
        swap(store)
    os.kill(record["serve"], signal.SIGUSR1)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        rolls = read(logs)["rolls"]
        if len(rolls) > len(record["rolls"]):
            last, refused = rolls[-1], store / REFUSED
            if not last["ok"]:
                if back and not last["refused"]:
                    swap(store)  # or trying again would go to the version that runs
                again = _again(last, refused, back)
                raise RuntimeError(f"{last['reason']}; the old version goes on serving. {again}")
            told = f"rolled in {last['seconds']:.0f} s"
            if last["same"]:  # make found nothing to build
                told += ", to the version that was running"
                if refused.is_file():
                    told += f"; one that was refused lies in {refused}"
            return told
        time.sleep(0.2)
    raise RuntimeError(f"it has not happened within {timeout:.0f} s; look into {logs}")


def _again(last: dict[str, Any], refused: Path, back: bool) -> str:
    """How to try a version again that does not serve."""
    command = "make rollback" if back else "make roll"
    if last["refused"] and not back:
        archive = refused.with_name("deepfake.mar")
        return f"The new one is kept: to try it again, mv {refused} {archive} and {command}"
    return f"To try again: {command}"


def main() -> int:
    opt = arguments()
    try:
        print(roll(opt.logs, opt.timeout, opt.back))
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nnot waited for; the service goes on with it, and says when it is done")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
