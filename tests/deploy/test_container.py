"""What the serve image runs: the entry point and the health check."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deploy.container import ready, serve
from tests.deploy.files import ROOT


@pytest.mark.parametrize(
    ("cpu_max", "count"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # one and a half: two threads that rest now and then
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),  # more than the host has
    ],
)
def test_the_worker_gets_as_many_cpus_as_the_limit_pays_for(cpu_max: str, count: int) -> None:
    cpus = set(range(8, 16))
    allowed = serve.cpus_paid_for(cpu_max, cpus)
    assert len(allowed) == count
    assert allowed <= cpus


def test_containers_of_one_host_do_not_all_take_the_same_cpus() -> None:
    drawn = {min(serve.cpus_paid_for("100000 100000", set(range(64)))) for _ in range(50)}
    assert len(drawn) > 10


class Replaced(Exception):
    """Stands for the exec that does not return."""


def test_the_entry_point_becomes_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_max = tmp_path / "cpu.max"
    cpu_max.write_text("100000 100000\n", encoding="utf-8")
    left = tmp_path / "torchserve" / "models" / "left by a crash"
    left.mkdir(parents=True)
    pinned: list[set[int]] = []
    became: list[tuple[str, list[str], dict[str, str]]] = []

    def execve(path: str, command: list[str], environment: dict[str, str]) -> None:
        became.append((path, command, environment))
        raise Replaced

    monkeypatch.setattr(serve, "CPU_MAX", cpu_max)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: pinned.append(cpus))
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("TS_METRICS_ADDRESS", "http://torchserve-metrics:8082")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Replaced):
        serve.main()
    ((path, command, environment),) = became
    assert Path(path).name == "java"
    assert os.access(path, os.X_OK)
    assert command[0] == path
    assert "org.pytorch.serve.ModelServer" in command
    assert f"-Djava.io.tmpdir={tmp_path / 'torchserve'}" in command
    (log,) = (a.partition("file://")[2] for a in command if a.startswith("-Dlog4j"))
    assert "SYSTEM_OUT" in Path(log).read_text(encoding="utf-8")
    assert "RollingFile" not in Path(log).read_text(encoding="utf-8"), "no log file fills a disk"
    assert told(Path(log)) == told(ROOT / "deploy" / "log4j2.xml"), "what may be said is the same"
    assert Path(environment["TS_METRICS_CONFIG"]) == ROOT / "handler" / "metrics.yaml"
    assert environment["TS_METRICS_ADDRESS"] == "http://torchserve-metrics:8082"
    assert [len(cpus) for cpus in pinned] == [1]
    assert Path.cwd() == tmp_path / "torchserve"
    assert (tmp_path / "torchserve" / "pid").read_text(encoding="utf-8") == str(os.getpid())
    assert not left.exists()


def told(config: Path) -> list[str]:
    """What a configuration of log4j lets through, and how it writes it, wherever it goes."""
    root = ElementTree.parse(config).getroot()
    parts = [
        ElementTree.tostring(part, encoding="unicode").strip()
        for kind in ("Property", "Logger", "PatternLayout", "RegexFilter")
        for part in root.iter(kind)
        if part.get("name") != "folder"
    ]
    return sorted(set(parts))


class Management(http.server.BaseHTTPRequestHandler):
    """Answers as TorchServe's management API does."""

    body = b""

    def do_GET(self) -> None:
        assert self.path == "/models/deepfake"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Management) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def workers(*states: str) -> bytes:
    return json.dumps([{"workers": [{"id": "9000", "status": s} for s in states]}]).encode()


@pytest.mark.parametrize(
    ("body", "well"),
    [
        (workers("READY"), True),
        (workers("UNLOADING", "READY"), True),
        (workers("UNLOADING"), False),
        (workers(), False),
        (b'{"code": 404, "type": "ModelNotFoundException"}', False),
        (b"", False),
    ],
)
def test_the_health_check_wants_a_ready_worker(
    port: int, body: bytes, well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Management, "body", body)
    assert ready.ready(port) is well


def test_the_health_check_fails_when_nobody_answers(port: int) -> None:
    assert ready.ready(port=1) is False


@pytest.fixture
def torchserve(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Any process, noted as serve.py notes Java's."""
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / "pid").write_text(str(process.pid), encoding="utf-8")
        yield process
        process.kill()


def failed_for(seconds: float, home: Path) -> None:
    """As if the first of the failures in a row were so long ago."""
    ready.end_if_lost(False, home)
    then = time.time() - seconds
    os.utime(home / "not-ready", (then, then))


def test_a_torchserve_that_is_lost_is_ended(
    torchserve: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    failed_for(ready.PATIENCE - 60, tmp_path)
    ready.end_if_lost(False, tmp_path)
    assert torchserve.poll() is None
    failed_for(ready.PATIENCE + 60, tmp_path)
    ready.end_if_lost(False, tmp_path)
    assert torchserve.wait(10) == -signal.SIGTERM


def test_but_not_one_that_was_ready_meanwhile(
    torchserve: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    failed_for(ready.PATIENCE + 60, tmp_path)
    ready.end_if_lost(True, tmp_path)
    ready.end_if_lost(False, tmp_path)
    assert torchserve.poll() is None
