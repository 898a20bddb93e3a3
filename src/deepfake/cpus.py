"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota> <period>" in microseconds, or "max"


def usable() -> int:
    """CPUs that it is allowed to run on and, in a container with a limit, that are paid for.

    A limit such as ``docker run --cpus 2`` still shows every CPU of the host; threads for all of
    them would mostly wait for their turn.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text(encoding="utf-8").split()
        return min(allowed, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no limit
        return allowed
