"""What the README tells people to paste works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Service

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def here(text: str, service: Service) -> str:
    """The text with the addresses of the running service."""
    text = text.replace("http://127.0.0.1:8080/predictions/deepfake", service.url)
    return text.replace("http://127.0.0.1:5000", service.page)


@pytest.mark.parametrize("block", blocks("bash"))
def test_curl_lines_give_a_verdict(service: Service, block: str) -> None:
    done = subprocess.run(
        here(block, service), shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["label"] in ("Fake", "Real")


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(service: Service, block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", here(block, service)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("Fake|Real", done.stdout)


def test_every_file_is_in_the_tree() -> None:
    tree = README.split("## The way of the data")[1].split("## Train on your own data")[0]
    for folder in ("src/deepfake", "handler", "training", "deploy"):
        for path in (ROOT / folder).glob("*.*"):
            if path.name != "__init__.py":
                assert path.name in tree, f"{folder}/{path.name} is not in the README's tree"


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (\w+)$", makefile, re.MULTILINE)
    assert {"serve", "test", "stop", "setup", "crop", "train", "evaluate"} <= set(targets)
    for target in targets:
        assert f"make {target}:" in done.stdout
