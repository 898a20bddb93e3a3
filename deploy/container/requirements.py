"""Print what one stage of the Dockerfile installs, from pyproject.toml.

Usage: ``python requirements.py serve|archive|frontend``, beside pyproject.toml.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ARCHIVER = "torch-model-archiver"


def requirements(stage: str, pyproject: Path) -> list[str]:
    """The pinned requirements of a stage: no more than it runs."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    library, extras = project["dependencies"], project["optional-dependencies"]
    if stage == "serve":
        return [*library, *(r for r in extras["serve"] if not r.startswith(ARCHIVER))]
    if stage == "archive":
        return [r for r in extras["serve"] if r.startswith(ARCHIVER)]
    if stage == "frontend":  # it shows photos, with the library's version of Pillow
        return [*extras["frontend"], *(r for r in library if r.startswith("pillow"))]
    raise ValueError(f"no stage {stage!r}")


if __name__ == "__main__":
    print(*requirements(sys.argv[1], Path("pyproject.toml")), sep="\n")
