"""What every command of this package shares, such as one clear sentence for a failure."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import sys
from collections.abc import Callable

from deepfake.errors import DeepfakeError


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser whose ``--help`` shows the module's docstring and all defaults."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return argparse.ArgumentParser(description=description, formatter_class=Formatter)


def run(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a program; expected failures end in one sentence and exit status 1."""
    try:
        sys.exit(main() or 0)
    except DeepfakeError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def keep_memory() -> None:
    """On a CPU, have glibc keep freed memory instead of giving it back after every layer.

    Each step frees and allocates the same large activations; returned to the kernel, their
    pages are zeroed and mapped anew every time, which costs more than half of a step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_max = -1, -4  # from malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
