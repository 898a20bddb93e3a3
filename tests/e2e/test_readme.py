"""What the README tells people to paste works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import requests

from tests.documents import blocks_for
from tests.e2e.conftest import ROOT, Service

README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = blocks_for(__file__)


def here(text: str, service: Service) -> str:
    """The text with the addresses of the running service."""
    text = text.replace("http://127.0.0.1:8080/predictions/deepfake", service.url)
    return text.replace("http://127.0.0.1:5000", service.page)


@pytest.mark.parametrize("block", [b.text for b in BLOCKS if b.language == "bash"])
def test_curl_lines_give_a_verdict(service: Service, block: str) -> None:
    done = subprocess.run(
        here(block, service), shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["label"] in ("Fake", "Real")


@pytest.mark.parametrize("block", [b.text for b in BLOCKS if b.language == "python"])
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


def test_the_answer_is_what_the_service_says(service: Service) -> None:
    (text,) = re.findall(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (photo,) = re.findall(r"An answer, to `([^`]+)`", README)
    answer = requests.post(service.url, data=(ROOT / photo).read_bytes(), timeout=60).json()
    shown = json.loads(text)
    assert answer["model"].pop("runtime") in ("openvino f32", "openvino bf16", "torch f32")
    shown["model"].pop("runtime")  # the processor's choice
    for of_the_checkpoint in ("threshold", "uncertain_band", "false_positive_rate"):
        assert answer[of_the_checkpoint] == shown[of_the_checkpoint]
    for kept in (answer, shown):
        kept["faces"][0]["box"] = [round(edge) for edge in kept["faces"][0]["box"]]
    assert flat(answer) == pytest.approx(flat(shown), abs=0.005)


def flat(document: object, name: str = "") -> dict[str, object]:
    """A JSON document as one table, from each value's path to the value."""
    if isinstance(document, dict):
        pairs = list(document.items())
    elif isinstance(document, list):
        pairs = list(enumerate(document))
    else:
        return {name: document}
    return {k: v for key, part in pairs for k, v in flat(part, f"{name}/{key}").items()}


@pytest.mark.parametrize("name", ["README.md", "MODEL_CARD.md"])
def test_the_errors_that_are_admitted_are_those_that_were_measured(name: str) -> None:
    (said,) = re.findall(
        r"calls ([\d.]+) % of (?:the )?real test photos fake and misses ([\d.]+) % of the fakes",
        words_of(name),
    )
    called, found = where_it_serves("evaluation")
    for text, share in zip(said, (called, 1 - found), strict=True):
        assert text == percent(share, len(text.partition(".")[2]))


def test_so_are_those_of_the_small_checkpoint() -> None:
    _, found = where_it_serves("evaluation-beside")
    (missed,) = re.findall(r"saved_model_small\.pth`\) .*? misses (\d+) %", words_of("README.md"))
    assert missed == percent(1 - found)
    (pair,) = re.findall(
        r"it finds (\d+) % of the test fakes instead of (\d+) %", words_of("MODEL_CARD.md")
    )
    assert pair == (percent(found), percent(where_it_serves("evaluation")[1]))


def words_of(name: str) -> str:
    """A page without its line breaks."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def where_it_serves(name: str) -> tuple[float, float]:
    """Of a kept evaluation: the shares of real and of fake test photos that are called fake."""
    path = ROOT / f"docs/evaluation/{name}.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["decisions"]["figures"]
    called, found = (figures[f"fpr5-edited/{n}"] for n in ("false_positive_rate", "recall"))
    return called["value"], found["value"]


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}"


def test_every_file_is_in_the_tree() -> None:
    tree = README.split("## The way of the data")[1].split("## Train on your own data")[0]
    for folder in ("src/deepfake", "handler", "training", "deploy"):
        for path in (ROOT / folder).glob("*.*"):
            if path.name != "__init__.py":
                assert path.name in tree, f"{folder}/{path.name} is not in the README's tree"


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: ([\w-]+)$", makefile, re.MULTILINE)
    assert {"serve", "test", "test-faults", "stop", "setup", "crop", "train", "evaluate"} <= set(
        targets
    )
    for target in targets:
        assert f"make {target}:" in done.stdout
