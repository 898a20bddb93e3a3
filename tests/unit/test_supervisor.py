"""When the supervisor starts something again, how long it waits, and when it gives up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import supervisor
from deploy.roll import swap
from deploy.supervisor import Backoff, Supervisor
from deploy.torchserve import Ports, State, TorchServe


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Supervisor]:
    (tmp_path / "deepfake.mar").write_bytes(b"archive")
    supervisor = Supervisor(tmp_path, tmp_path / "logs", Ports(), timeout=1)
    yield supervisor
    shutil.rmtree(supervisor.temp)


@pytest.mark.parametrize(
    ("state", "seconds", "again"),
    [
        (State.DEAD, 0, True),
        (State.READY, 10_000, False),
        (State.SILENT, 25, False),
        (State.SILENT, 35, True),
        # TorchServe itself starts a worker again for 300 seconds, and then never.
        (State.WORKERLESS, 300, False),
        (State.WORKERLESS, 311, True),
        (State.STARTING, 400, False),
        (State.STARTING, 421, True),
    ],
)
def test_it_interferes_only_when_torchserve_will_not_help_itself(
    watched: Supervisor, state: State, seconds: float, again: bool
) -> None:
    assert watched._overdue(state, watched._was_ready + seconds) is again


def test_it_waits_longer_every_time_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    back_off = Backoff()
    waits = [back_off.wait("it") for _ in range(supervisor.RESTARTS)]
    assert waits == [1, 2, 4, 8, 16, 30]
    with pytest.raises(RuntimeError, match="in vain"):
        back_off.wait("it")


def test_a_minute_of_work_counts_as_success(monkeypatch: pytest.MonkeyPatch) -> None:
    back_off, now = Backoff(), [1000.0]
    monkeypatch.setattr("deploy.supervisor.time.monotonic", lambda: now[0])
    back_off.wait("it")
    for ready, later in ((True, 0), (True, 59), (False, 1), (True, 1), (True, 59)):
        now[0] += later
        back_off.saw(ready)
        assert back_off.failures == 1
    now[0] += 2
    back_off.saw(True)
    assert back_off.failures == 0


def test_the_archive_that_runs_is_a_copy(watched: Supervisor) -> None:
    """Or a restart in the night would serve what somebody has built since."""
    (watched.model_store / "deepfake.mar").write_bytes(b"newer")
    assert (watched.server.model_store / "deepfake.mar").read_bytes() == b"archive"


def test_without_an_archive_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no deepfake\.mar"):
        Supervisor(tmp_path, tmp_path / "logs", Ports(), timeout=1)


def test_a_full_disk_does_not_stop_it(
    watched: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.record = Path("/dev/full/serve.json")
    watched._write_record()
    assert "cannot be written" in capsys.readouterr().out


def test_the_versions_change_places(tmp_path: Path) -> None:
    (tmp_path / "previous").mkdir()
    (tmp_path / "deepfake.mar").write_text("new")
    (tmp_path / "previous" / "deepfake.mar").write_text("old")
    swap(tmp_path)
    assert (tmp_path / "deepfake.mar").read_text() == "old"
    assert (tmp_path / "previous" / "deepfake.mar").read_text() == "new"


def test_there_must_be_an_earlier_version(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no earlier version"):
        swap(tmp_path)


def test_a_server_that_never_ran_is_dead_and_can_be_stopped(tmp_path: Path) -> None:
    server = TorchServe(tmp_path, tmp_path)
    assert server.state() is State.DEAD
    server.stop()
