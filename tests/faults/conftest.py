"""A real service whose time limits are short, so that what takes minutes takes seconds."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.e2e.conftest import ROOT, Service, start, stop

ARCHIVE = ROOT / "model_store" / "deepfake.mar"
SHORT: dict[str, Any] = {"responseTimeout": 15, "maxRetryTimeoutInSec": 10, "jobQueueSize": 20}


def variant(
    store: Path, change: Callable[[str, bytes], bytes] | None = None, **config: Any
) -> Path:
    """A model store whose archive has other settings, or other files where ``change`` says so."""
    store.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(ARCHIVE) as old, zipfile.ZipFile(store / "part", "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "model-config.yaml":
                content = yaml.safe_dump(yaml.safe_load(content) | config).encode()
            new.writestr(item.filename, change(item.filename, content) if change else content)
    (store / "part").replace(store / "deepfake.mar")
    return store


Start = Callable[..., Service]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    """Start a service of one's own, with these settings in its archive."""
    services = []

    def begin(*options: str, logs: Path | None = None, **config: Any) -> Service:
        store = variant(tmp_path / "store", **(SHORT | config))
        options = ("--model-store", str(store), *options)
        services.append(start(logs or tmp_path / "logs", *options))
        return services[-1]

    yield begin
    for service in services:
        if service.process.poll() is None:
            stop(service)
        elif service.process.stdout is not None:
            service.process.stdout.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all faults that it must survive, one after the other."""
    folder = tmp_path_factory.mktemp("shared")
    store = variant(folder / "store", **SHORT)
    service = start(folder / "logs", "--model-store", str(store))
    yield service
    stop(service)


def workers(service: Service) -> list[int]:
    """The processes of the workers that are there now."""
    try:
        models = requests.get(f"{service.management}/models/deepfake", timeout=5).json()
        found = [int(worker["pid"]) for worker in models[0]["workers"]]
    except (requests.RequestException, KeyError, ValueError):
        return []
    return [pid for pid in found if pid > 0]


def ready(service: Service) -> bool:
    return requests.get(f"{service.page}/readyz", timeout=10).ok


def wait_until(condition: Callable[[], bool], patience: float = 120.0) -> float:
    """Seconds until it holds; it must within ``patience``."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience, "it has not happened in time"
        time.sleep(0.1)
    return time.monotonic() - begun
