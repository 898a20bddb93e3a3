"""`make serve` and `make stop` as a person uses them: one command up, nothing left behind."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.torchserve import free_ports
from tests.documents import blocks_for
from tests.e2e.conftest import ROOT, Service, start, stop


def servers(service: Service) -> list[int]:
    """Every process of a running service: launcher, Java, worker, page."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {service.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def alive(pids: list[int]) -> list[int]:
    """Those still running; a moment's grace for the kernel to clean up."""
    for _ in range(50):
        left = [p for p in pids if _running(p)]
        if not left:
            break
        time.sleep(0.1)
    return left


def _running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_make_serve_prints_a_curl_line_that_works_and_ctrl_c_stops_all(tmp_path: Path) -> None:
    (block,) = blocks_for(__file__)
    make, *targets = block.text.split()
    service = start(tmp_path, command=[make, "--no-print-directory", *targets])
    pids = servers(service)
    assert len(pids) >= 4, "make, launcher, Java, worker and page"
    line = re.search(r"^ *try +(curl .+)$", service.banner, re.MULTILINE)
    assert line, service.banner
    done = subprocess.run(shlex.split(line.group(1)), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["label"] in ("Fake", "Real")
    text = stop(service, signal.SIGINT)  # to the whole group, as a terminal's Ctrl-C does
    assert "stopped" in text
    assert alive(pids) == []


def test_make_stop_leaves_nothing_even_after_the_launcher_was_killed(tmp_path: Path) -> None:
    service = start(tmp_path)
    pids = servers(service)
    service.process.kill()
    service.process.wait()
    assert service.process.stdout is not None
    service.process.stdout.close()
    command = [sys.executable, str(ROOT / "deploy" / "stop.py"), "--logs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "stopped" in done.stdout
    assert alive(pids) == []
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing is running" in again.stdout


def test_a_port_in_use_is_named(service: Service, tmp_path: Path) -> None:
    port = int(service.url.partition("127.0.0.1:")[2].partition("/")[0])
    page, management, metrics = free_ports(3)
    ports = f"--page-port {page} --management-port {management} --metrics-port {metrics}"
    options = f"{ports} --inference-port {port} --logs {tmp_path}"
    done = subprocess.run(
        [sys.executable, "-m", "deploy.serve", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", ["archive", "setup"])
def test_make_does_only_what_is_stale(target: str) -> None:
    command = ["make", "--no-print-directory", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not said.strip() or "Nothing to be done" in said, (
        f"make {target} did something again:\n{said}"
    )
