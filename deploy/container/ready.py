"""Exit status 0 when a worker of the model is READY, else 1: the health check of ``serve``.

TorchServe's own ``/ping`` says Healthy before the model is loaded and while its worker dies again
and again. The management API, which says the truth, listens inside the container only. Runs every
few seconds, so it imports nothing that is slow.
"""

from __future__ import annotations

import http.client
import json
import sys


def ready(port: int = 8081, model: str = "deepfake") -> bool:
    """Whether this machine's TorchServe has a worker that can answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", f"/models/{model}")
        versions = json.load(connection.getresponse())
        return any(w["status"] == "READY" for version in versions for w in version["workers"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready() else 1)
