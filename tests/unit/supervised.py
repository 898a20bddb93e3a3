"""A TorchServe for the supervisor's tests."""

from __future__ import annotations

from deploy.torchserve import TorchServe


class Version(TorchServe):
    """Runs nothing; ready at once, unless its archive says otherwise."""

    def start(self) -> None:
        pass

    def wait_ready(self, timeout: float = 180) -> None:
        if b"broken" in (self.model_store / "deepfake.mar").read_bytes():
            raise RuntimeError("the archive is damaged")

    def drain(self, patience: float) -> bool:
        return True
