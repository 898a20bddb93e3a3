"""Every command in the documents is run by a test, or says why not; and what they name exists."""

from __future__ import annotations

import importlib.util
import re

import pytest
import yaml

from tests.documents import ROOT, Block, blocks

TEXTS = [p for pattern in ("*.md", "docs/*.md", "benchmarks/*.md") for p in ROOT.glob(pattern)]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.text.splitlines()[0][:40])
def test_a_block_of_commands_is_run_by_a_test_or_says_why_not(block: Block) -> None:
    assert block.test or block.why_not, f"{block.document} says nothing of:\n{block.text}"
    if block.test:
        source = (ROOT / block.test).read_text(encoding="utf-8")
        assert "blocks_for(__file__)" in source, f"{block.test} does not look for its blocks"


def test_blocks_are_found() -> None:
    """So that the test above has something to look at."""
    texts = [block.text for block in blocks()]
    for expected in ("make serve\n", "make test\n", "make crop DATA=data\n", "kubectl apply"):
        assert any(text.startswith(expected) for text in texts), expected


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", makefile, re.MULTILINE))
    named = {
        target
        for path in TEXTS
        for words in re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)", path.read_text(encoding="utf-8"))
        for target in words.split()
    }
    assert {"serve", "test", "roll", "test-faults", "robustness"} <= named
    assert named <= targets, f"no such target: {', '.join(sorted(named - targets))}"


def test_every_program_that_is_named_exists() -> None:
    named = {
        module
        for path in TEXTS
        for module in re.findall(
            r"-m ((?:training|deepfake|frontend|deploy|scoring|benchmarks)\.[\w.]+)",
            path.read_text(encoding="utf-8"),
        )
    }
    assert {"training.train", "training.studies", "frontend.keys"} <= named
    assert [m for m in sorted(named) if importlib.util.find_spec(m) is None] == []


def test_as_many_photos_may_wait_as_the_documents_say() -> None:
    said = re.search(r"a queue of (\d+)", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert said
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text(encoding="utf-8"))
    assert config["jobQueueSize"] == int(said[1])
