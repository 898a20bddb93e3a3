"""The blocks of commands in the documents, and what a comment before each says of it.

<!-- run: tests/e2e/test_readme.py -->      that test takes the block from here and runs it
<!-- not run: needs Docker -->              nobody does, and this is why
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "SECURITY.md", "MODEL_CARD.md", "CONTRIBUTING.md", "docs/*.md")
NO_COMMANDS = ("json", "yaml", "text")
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<how>run|not run): (?P<what>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: path of its file, from the project's folder.
        language: what stands behind the fence.
        text: as it is pasted.
        test: path of the test that runs it; empty if none does.
        why_not: what is said instead.
    """

    document: str
    language: str
    text: str
    test: str
    why_not: str


def blocks() -> list[Block]:
    """All blocks of all documents that hold commands or programs."""
    found = []
    for path in sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern)):
        for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
            how, what = match["how"], match["what"] or ""
            block = Block(
                document=path.relative_to(ROOT).as_posix(),
                language=match["language"],
                text=re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
                test=what if how == "run" else "",
                why_not=what if how == "not run" else "",
            )
            if block.language not in NO_COMMANDS:
                found.append(block)
    return found


def blocks_for(test: str) -> list[Block]:
    """The blocks that say that this test, the ``__file__`` of one, runs them."""
    name = Path(test).resolve().relative_to(ROOT).as_posix()
    found = [block for block in blocks() if block.test == name]
    assert found, f"no document names {name}"
    return found
