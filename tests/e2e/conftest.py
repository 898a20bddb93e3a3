"""The real service, started once the way a user starts it, and a browser to open its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from deploy.torchserve import free_ports
from tests.conftest import FAKES, ROOT, montage
from tests.e2e.browser import SHOTS, Open

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


FIRST, LAST = ("test_logs.py",), ("test_fuzz.py", "test_heal.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Logs are looked at before they fill with what fuzzers make TorchServe say; the worker that
    answers all others is killed last."""
    items.sort(key=lambda item: (item.path.name in LAST, item.path.name not in FIRST))


@dataclass
class Service:
    """A running service and what it printed when it was ready."""

    process: subprocess.Popen[str]
    banner: str
    logs: Path
    management: str

    @property
    def url(self) -> str:
        return self._address("service")

    @property
    def page(self) -> str:
        return self._address("page")

    @property
    def metrics(self) -> str:
        return self._address("metrics")

    def _address(self, name: str) -> str:
        found = re.search(rf"^ *{name} +(http\S+)$", self.banner, re.MULTILINE)
        assert found, self.banner
        return found.group(1)


def worker(service: Service) -> psutil.Process:
    """The process that judges the photos."""
    model = requests.get(f"{service.management}/models/deepfake", timeout=10).json()[0]
    (found,) = model["workers"]
    return psutil.Process(found["pid"])


def start(logs: Path, *extra: str, command: list[str] | None = None) -> Service:
    """Start the service on free ports; returns once it says that it is ready."""
    page, inference, management, metrics = free_ports(4)
    options = [
        *("--page-port", str(page)),
        *("--inference-port", str(inference)),
        *("--management-port", str(management)),
        *("--metrics-port", str(metrics)),
        *("--logs", str(logs)),
        *extra,
    ]
    if command is None:
        command = [sys.executable, "-m", "deploy.serve", *options]
    else:
        command = [*command, f"ARGS={' '.join(options)}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # As in a terminal, also where nohup started the tests.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    # A start that hangs must fail here, not at the limit of the whole run.
    watchdog = threading.Timer(240, os.killpg, (process.pid, signal.SIGTERM))
    watchdog.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    watchdog.cancel()
    text = "".join(lines)
    if "Ctrl-C" not in text:
        process.wait(60)
        process.stdout.close()
        pytest.fail(f"the service did not start:\n{text}")
    return Service(process, text, logs, f"http://127.0.0.1:{management}")


def stop(service: Service, signum: int = signal.SIGTERM) -> str:
    """Stop the service; what it printed while stopping."""
    os.killpg(service.process.pid, signum)
    try:
        return service.process.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        os.killpg(service.process.pid, signal.SIGTERM)
        service.process.communicate()
        pytest.fail("the service did not stop")


def upload(service: Service, blob: bytes, **fields: str) -> requests.Response:
    """Send a photo with the form, as a browser does: with the cookie and the form's token."""
    with requests.Session() as browser:
        page = browser.get(service.page, timeout=60).text
        found = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert found, page
        return browser.post(
            service.page,
            data={"csrf_token": found[1], **fields},
            files={"image": blob},
            timeout=60,
        )


def archived(store: Path) -> str:
    """The version of an archive."""
    with zipfile.ZipFile(store / "deepfake.mar") as archive:
        return str(json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"])


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = start(tmp_path_factory.mktemp("logs"))
    yield running
    stop(running)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skipped where there is no Chromium, unless DEEPFAKE_BROWSER_TESTS is "required"."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        if os.environ.get("DEEPFAKE_BROWSER_TESTS") == "required":
            pytest.fail("there is no Chromium, and DEEPFAKE_BROWSER_TESTS asks for it")
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    SHOTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Open]:
    """Opens a path of the page in a fresh profile; fails on scripts' errors and foreign hosts."""
    host = urlsplit(service.page).netloc
    faults: list[str] = []
    contexts = []

    def look(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != host:
            faults.append(f"asked {request.url}")

    def start(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", look)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if "Security Policy" in m.text else None)
        page.goto(service.page + path)
        return page

    yield start
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of several people."""
    path = tmp_path_factory.mktemp("photos") / "group.png"
    montage([Image.open(p).convert("RGB") for p in FAKES[:6]], columns=3, cell=300).save(path)
    return path
