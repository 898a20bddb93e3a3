"""The diagnostic: what it says of this machine, and of what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.integration.conftest import CHECKPOINT, Command


def test_diagnostic_says_what_is_there(command: Command) -> None:
    status, out, _ = command("training.diagnostic", "--json", "--checkpoint", CHECKPOINT)
    lines = {line["name"]: line for line in json.loads(out)}
    expected = {"Python", "PyTorch", "torchvision ops", "MTCNN weights", "Java", "TorchServe"}
    assert all(lines[name]["ok"] for name in expected)
    assert lines["checkpoint"]["ok"]
    assert str(CHECKPOINT) in lines["checkpoint"]["text"]
    assert " ms for one face" in lines["forward pass"]["text"]
    assert torch.__version__ in lines["PyTorch"]["text"]
    # A port may be in use here; then that is what it must say.
    assert status == int(any(line["ok"] is False for line in lines.values()))


def test_diagnostic_without_a_checkpoint_fails_and_says_so(
    command: Command, tmp_path: Path
) -> None:
    status, out, _ = command("training.diagnostic", "--checkpoint", tmp_path / "none.pth")
    assert status == 1
    failed = [line for line in out.splitlines() if line.startswith("FAIL") and "none.pth" in line]
    assert len(failed) == 2  # the checkpoint, and the forward pass
    assert all("does not exist" in line for line in failed)
    assert any(line.startswith("OK") and "PyTorch" in line for line in out.splitlines())


def test_diagnostic_notices_a_port_in_use(command: Command, tmp_path: Path) -> None:
    import socket

    from training.diagnostic import check_port

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert check_port("page", port).ok is False
        assert str(port) in check_port("page", port).text
    assert check_port("page", port).ok
