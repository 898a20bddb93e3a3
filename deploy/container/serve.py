"""Become TorchServe: the entry point of the image ``serve``.

``exec`` makes Java the container's first process, so that it gets the SIGTERM of ``docker stop``
and of Kubernetes itself, and ends its workers before it ends.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

from deploy.torchserve import ROOT, java_command

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota> <period>" in microseconds, or "max"


def cpus_paid_for(cpu_max: str, cpus: set[int]) -> set[int]:
    """As many of these CPUs as the quota pays for, rounded up.

    A limit such as ``cpus: 2`` only slows a container down; it still sees every CPU of the host,
    and the worker would start a thread for each, most of which wait for their turn. They are drawn
    at random, lest all containers of one host sit on the same.
    """
    quota, _, period = cpu_max.partition(" ")
    if quota.strip() == "max":
        return cpus
    count = max(1, -(-int(quota) // int(period)))
    return cpus if count >= len(cpus) else set(random.sample(sorted(cpus), count))


def main() -> None:
    """Never returns."""
    if CPU_MAX.exists():
        allowed = cpus_paid_for(CPU_MAX.read_text(encoding="utf-8"), os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed)  # Java and its workers inherit it
    # One folder, emptied: what a crash left behind must not fill the volume.
    temp = Path(tempfile.gettempdir(), "torchserve")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(mode=0o700)
    os.chdir(temp)
    (temp / "pid").write_text(str(os.getpid()), encoding="utf-8")  # Java's, which keeps it
    metrics = str(ROOT / "handler" / "metrics.yaml")  # the one in config.properties is relative
    command = java_command(
        ROOT / "model_store", str(temp), ROOT / "deploy" / "container" / "log4j2.xml"
    )
    os.execve(command[0], command, {"TS_METRICS_CONFIG": metrics, **os.environ})


if __name__ == "__main__":
    main()
