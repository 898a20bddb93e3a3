"""docs/openapi.yaml against the running servers: its examples run, and what it says holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.conftest import ASTRONAUT
from tests.e2e.conftest import ROOT, Service

DOCUMENT = ROOT / "docs" / "openapi.yaml"
SPEC = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))


def samples() -> Iterator[tuple[str, str]]:
    for item in SPEC["paths"].values():
        for method, operation in item.items():
            if method != "servers":
                for sample in operation["x-codeSamples"]:
                    yield sample["lang"], sample["source"]


def here(text: str, service: Service) -> str:
    """The text with the addresses of the running service."""
    inference = service.url.removesuffix("/predictions/deepfake")
    text = text.replace("http://127.0.0.1:8080", inference)
    return text.replace("http://127.0.0.1:5000", service.page)


@pytest.mark.parametrize(("language", "source"), list(samples()))
def test_examples_run_as_they_stand(
    service: Service, tmp_path: Path, language: str, source: str
) -> None:
    shutil.copy(ASTRONAUT, tmp_path / "photo.jpg")
    source = here(source, service)
    command = ["bash", "-c", source] if language == "curl" else [sys.executable, "-c", source]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Fake|Real|Uncertain|\[\[|\"status\": ?\"ok\"", done.stdout), done.stdout


def schemathesis(folder: Path, url: str, paths: str, excluded: str, **environment: str) -> str:
    """Run schemathesis; its report. Fails on what it finds.

    Bounded in examples, not in time, so that it tests the same on any machine. It keeps notes in
    the folder that it runs in.
    """
    options = [
        *("--url", url, "--include-path-regex", paths),
        *("--exclude-checks", excluded),
        *("--max-examples", "15", "--request-timeout", "30"),
        *("--seed", "1", "--generation-database", "none", "--no-color"),
    ]
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [program, "run", DOCUMENT, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# A schema cannot say that a text of bytes is a photo with a face, so what fits it may be refused.
NO_PHOTO = "positive_data_acceptance"


def test_the_page_keeps_its_word(service: Service, tmp_path: Path) -> None:
    report = schemathesis(tmp_path, service.page, "^/(api|healthz|readyz)", NO_PHOTO)
    assert "4 selected" in report


def test_torchserve_keeps_its_word(service: Service, tmp_path: Path) -> None:
    report = schemathesis(
        tmp_path,
        service.url.removesuffix("/predictions/deepfake"),
        "^/(predictions|explanations)",
        f"{NO_PHOTO},unsupported_method",  # TorchServe takes every method for POST
        SCHEMATHESIS_HOOKS="tests.e2e.api_hooks",
    )
    assert "2 selected" in report


def test_a_client_cannot_ask_predictions_for_heat_maps(service: Service) -> None:
    """TorchServe's own header decides, and that is set by the route."""
    for name in ("explain", "Explain"):
        answer = requests.post(
            service.url, data=ASTRONAUT.read_bytes(), headers={name: "True"}, timeout=60
        )
        assert "heat_map" not in answer.json()["faces"][0]
    url = service.url.replace("/predictions/", "/explanations/")
    answer = requests.post(
        url, data=ASTRONAUT.read_bytes(), headers={"explain": "False"}, timeout=60
    )
    assert len(answer.json()["faces"][0]["heat_map"]) == 7
