"""How long the fuzzers look, and what they send: sound files, damaged in every way."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.uploads.case import encode
from tests.uploads.formats import MODES, in_mode


def examples(usual: int) -> settings:
    """So many examples, the same at every run; `make fuzz` sets FUZZ for more and new ones."""
    times = int(os.environ.get("FUZZ", "0"))
    return settings(
        max_examples=usual * max(1, times),
        derandomize=times == 0,
        database=None,
        deadline=None,  # other programs on the machine must not make it fail
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


SEEDS = [encode(in_mode(mode), kind) for kind, modes in MODES.items() for mode in modes]
MAGIC = [blob[:16] for blob in SEEDS]


@st.composite
def _edited(draw: st.DrawFn) -> bytes:
    """A sound file with bytes changed, pieces cut out, doubled or taken from another file."""
    blob = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        # Most of what a decoder believes stands at the beginning.
        limit = draw(st.sampled_from((40, 400, len(blob))))
        start = draw(st.integers(0, min(limit, len(blob))))
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 100, len(blob))))
        other = draw(st.one_of(st.binary(max_size=12), st.sampled_from(SEEDS)))
        kind = draw(st.sampled_from(("overwrite", "replace", "insert", "cut")))
        if kind == "overwrite":
            blob[start : start + min(len(other), 12)] = other[:12]
        elif kind == "replace":
            blob[start : start + length] = other[start : start + length]
        elif kind == "insert":
            blob[start:start] = other[:length]
        else:
            del blob[start : start + length]
    return bytes(blob)


def files() -> st.SearchStrategy[bytes]:
    """Mostly damaged photos; some that only begin like one; some noise."""
    begun = st.builds(lambda head, rest: head + rest, st.sampled_from(MAGIC), st.binary())
    return st.one_of(_edited(), _edited(), _edited(), begun, st.binary(max_size=200))
