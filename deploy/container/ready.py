"""Exit status 0 when a worker of the model is READY, else 1: the health check of ``serve``.

TorchServe's own ``/ping`` says Healthy before the model is loaded and while its worker dies again
and again. The management API, which says the truth, listens inside the container only. Runs every
few seconds, so it imports nothing that is slow.

Where it has failed for ``PATIENCE`` seconds on end it ends TorchServe, so that Docker starts the
container again, as Kubernetes would by itself: Docker alone leaves an unhealthy one as it is.

It also hands TorchServe's inference token on to the page, through the file that
DEEPFAKE_TOKEN_FILE names, if token authorisation is on: who may run here may read the keys.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from deploy import tokens

HOME = Path(tempfile.gettempdir(), "torchserve")  # where serve.py starts Java
KEY_FILE = HOME / tokens.NAME
PATIENCE = 420.0  # TorchServe itself starts a dead worker again, for 300 s, and then never


def ready(port: int = 8081, model: str = "deepfake") -> bool:
    """Whether this machine's TorchServe has a worker that can answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", f"/models/{model}", headers=tokens.headers(KEY_FILE, port))
        versions = json.load(connection.getresponse())
        return any(w["status"] == "READY" for version in versions for w in version["workers"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


def hand_on_token(port: int = 8081) -> None:
    """Write the inference token to where the page reads it, if this container has such a place."""
    target = os.environ.get("DEEPFAKE_TOKEN_FILE")
    if target and KEY_FILE.exists():
        tokens.hand_on(KEY_FILE, Path(target), port)


def end_if_lost(is_ready: bool, home: Path = HOME) -> None:
    """End TorchServe when each look has found it not ready for ``PATIENCE`` seconds."""
    since = home / "not-ready"
    if is_ready:
        since.unlink(missing_ok=True)
    elif not since.exists():
        since.touch()
    elif time.time() - since.stat().st_mtime > PATIENCE:
        since.unlink()  # Java has as long to end; Docker then starts another
        os.kill(int((home / "pid").read_text(encoding="utf-8")), signal.SIGTERM)


if __name__ == "__main__":
    with contextlib.suppress(OSError, http.client.HTTPException):
        hand_on_token()  # before a worker is READY: the page then says that, and not "refused"
    found = ready()
    with contextlib.suppress(OSError, ValueError):
        end_if_lost(found)
    sys.exit(0 if found else 1)
