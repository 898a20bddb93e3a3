"""What every command of this package shares, such as one clear sentence for a failure."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence

from deepfake.errors import DataError, DeepfakeError


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser whose ``--help`` shows the module's docstring and all defaults."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return argparse.ArgumentParser(description=description, formatter_class=Formatter)


AGAIN = "run the same command again to go on"


def run(main: Callable[[], int | None], stopped: str = "") -> None:
    """Run ``main`` as a program; expected failures end in one sentence and exit status 1.

    Args:
        stopped: what to do after Ctrl-C, of programs that keep what they have done.
    """
    try:
        sys.exit(main() or 0)
    except DeepfakeError as error:
        # From a data-loading process it comes with that process's traceback before it.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{_full_name(error)}: ")
    except KeyboardInterrupt:
        print("\nstopped" + (f"; {stopped}" if stopped else ""), file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def check_numbers(
    opt: argparse.Namespace, above_zero: Sequence[str], not_negative: Sequence[str] = ()
) -> None:
    """DataError for the first of these options that is out of range, or not a number."""
    for name in (*above_zero, *not_negative):
        value, zero_will_do = getattr(opt, name), name in not_negative
        if not (value > 0 or (zero_will_do and value == 0)):
            wanted = "0 or more" if zero_will_do else "above 0"
            raise DataError(f"--{name.replace('_', '-')} is {value}, not {wanted}.")


def _full_name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


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
