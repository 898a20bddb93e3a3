"""What every command of this package shares: one clear sentence instead of a traceback."""

from __future__ import annotations

import argparse
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
