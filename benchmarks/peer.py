"""The same network and views behind LitServe, with eager PyTorch: what one would write first."""

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from benchmarks.reference import ReferencePipeline
from deepfake.checkpoint import load


class Peer(litserve.LitAPI):
    """JSON with the photo in base64 (LitServe takes no raw bodies) -> P(fake) of each face."""

    def setup(self, device: str) -> None:
        checkpoint = load(Path("saved_model.pth"))
        self.pipeline = ReferencePipeline(checkpoint.model, checkpoint.crop_margin)

    # LitServe looks at this annotation: it must be the class itself, not its name.
    def decode_request(self, request: Request, **_: Any) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, x: bytes, **_: Any) -> list[float]:
        return self.pipeline(x)

    def encode_response(self, output: list[float], **_: Any) -> dict[str, Any]:
        return {"fake_probability": output}


if __name__ == "__main__":
    server = litserve.LitServer(Peer(api_path="/predict"), accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
