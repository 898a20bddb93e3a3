"""How many CPUs there are to use, with and without a container's limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepfake import cpus


@pytest.mark.parametrize(
    ("cpu_max", "paid"),
    [("300000 100000", 3), ("150000 100000\n", 2), ("1000 100000", 1), ("max 100000", 4), ("", 4)],
)
def test_a_limit_is_kept_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu_max: str, paid: int
) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    monkeypatch.setattr(cpus, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("deepfake.cpus.os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert cpus.usable() == paid


def test_what_is_paid_for_and_not_there_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text("6400000 100000")
    monkeypatch.setattr(cpus, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("deepfake.cpus.os.sched_getaffinity", lambda pid: {0, 1, 5})
    assert cpus.usable() == 3


def test_without_limits_of_this_kind_all_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpus, "CPU_MAX", tmp_path / "none")
    assert cpus.usable() == len(os.sched_getaffinity(0))
