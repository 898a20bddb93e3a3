"""When the supervisor starts something again, how long it waits, and when it gives up."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import supervisor
from deploy.page import Page
from deploy.roll import roll, swap
from deploy.supervisor import REFUSED, Backoff, Supervisor, answers
from deploy.torchserve import Ports, State, TorchServe
from tests.unit.backend import JsonHandler, serving


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


def test_a_start_without_room_for_its_archive_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, temp = tmp_path / "store", tmp_path / "temp"
    for folder in (store, temp):
        folder.mkdir()
    (store / "deepfake.mar").write_bytes(b"archive")

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"arch")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(temp))
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        Supervisor(store, tmp_path / "logs", Ports(), timeout=1)
    assert list(temp.iterdir()) == []


def test_two_services_do_not_share_their_logs(watched: Supervisor) -> None:
    """The second would overwrite what `make stop` needs, and the first one's tokens."""
    with pytest.raises(RuntimeError, match="another service keeps its logs"):
        Supervisor(watched.model_store, watched.logs, Ports(), timeout=1)
    Supervisor(watched.model_store, watched.logs.with_name("logs-2"), Ports(), timeout=1).stop()


def test_while_it_rolls_nobody_else_moves_archives(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.roll.alive", lambda pid, mark: True)
    refusals = []

    def ask(self: TorchServe, timeout: float = 180) -> None:
        with pytest.raises(RuntimeError, match="a roll is under way"):
            roll(rolling.logs, 1, back=True)
        refusals.append(timeout)

    monkeypatch.setattr(Version, "wait_ready", ask)
    (rolling.model_store / "deepfake.mar").write_bytes(b"second")
    rolling._roll()
    assert len(refusals) == 2  # of the stand-in, and of the new one in its place
    assert (rolling.model_store / "deepfake.mar").read_bytes() == b"second"


def test_a_full_disk_does_not_stop_it(
    watched: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.record = Path("/dev/full/serve.json")
    watched._write_record()
    assert "cannot be written" in capsys.readouterr().out


def long_ago(path: Path) -> None:
    os.utime(path, (0, 0))


def is_new(path: Path) -> bool:
    """So that make does not build the archive again, of newer sources."""
    return path.stat().st_mtime > time.time() - 60


def test_the_versions_change_places(tmp_path: Path) -> None:
    (tmp_path / "previous").mkdir()
    (tmp_path / "deepfake.mar").write_text("new")
    (tmp_path / "previous" / "deepfake.mar").write_text("old")
    long_ago(tmp_path / "previous" / "deepfake.mar")
    swap(tmp_path)
    assert (tmp_path / "deepfake.mar").read_text() == "old"
    assert (tmp_path / "previous" / "deepfake.mar").read_text() == "new"
    assert is_new(tmp_path / "deepfake.mar")


def test_there_must_be_an_earlier_version(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no earlier version"):
        swap(tmp_path)


def test_a_server_that_never_ran_is_dead_and_can_be_stopped(tmp_path: Path) -> None:
    server = TorchServe(tmp_path, tmp_path)
    assert server.state() is State.DEAD
    server.stop()


# Rolls


class Version(TorchServe):
    """Runs nothing; ready at once, unless its archive says otherwise."""

    def start(self) -> None:
        pass

    def wait_ready(self, timeout: float = 180) -> None:
        if b"broken" in (self.model_store / "deepfake.mar").read_bytes():
            raise RuntimeError("the archive is damaged")

    def drain(self, patience: float) -> bool:
        return True


@pytest.fixture
def rolling(watched: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(supervisor, "TorchServe", Version)
    monkeypatch.setattr(supervisor, "answers", lambda server: True)
    watched.server = Version(watched.server.model_store, watched.logs, watched.ports)
    return watched


def copies(watched: Supervisor) -> list[bytes]:
    """The archives that it holds beside those of the model store."""
    return [path.read_bytes() for path in watched.temp.rglob("deepfake.mar")]


def test_of_all_versions_only_the_one_that_runs_is_kept(rolling: Supervisor) -> None:
    archive = rolling.model_store / "deepfake.mar"
    for version in (b"second", b"third"):
        archive.write_bytes(version)
        rolling._roll()
        assert copies(rolling) == [version]
    assert (rolling.model_store / "previous" / "deepfake.mar").read_bytes() == b"second"
    archive.write_bytes(b"broken")
    long_ago(rolling.server.model_store / "deepfake.mar")
    rolling._roll()
    assert [roll["ok"] for roll in rolling.rolls] == [True, True, False]
    assert copies(rolling) == [b"third"]
    assert (rolling.server.model_store / "deepfake.mar").read_bytes() == b"third"
    # The next start takes the one that runs, and make does not build the refused one again.
    assert archive.read_bytes() == b"third"
    assert is_new(archive)
    assert archive.with_name(REFUSED).read_bytes() == b"broken"
    assert sorted(p.name for p in (rolling.model_store / "previous").iterdir()) == ["deepfake.mar"]
    swap(rolling.model_store)  # what make rollback does
    rolling._roll()
    assert copies(rolling) == [b"second"]
    assert json.loads(rolling.switch.read_text())["torchserve"] == rolling.server.url


def test_the_version_before_a_restart_is_what_one_goes_back_to(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `make stop`, a training and `make serve`: no roll has seen the old one go."""
    rolling._remember()  # "archive" has been served
    (rolling.model_store / "deepfake.mar").write_bytes(b"trained since")
    rolling.server = Version(rolling._release(), rolling.logs)
    rolling._remember()
    rolling._remember()  # and restarts of the same change nothing
    swap(rolling.model_store)
    rolling._roll()
    assert copies(rolling) == [b"archive"]
    assert (rolling.model_store / "previous" / "deepfake.mar").read_bytes() == b"trained since"


def test_a_version_for_which_there_was_no_room_is_tried_again(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk says nothing about the archive: it stays where the next roll finds it."""

    def full(self: TorchServe) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = rolling.model_store / "deepfake.mar"
    archive.write_bytes(b"second")
    with monkeypatch.context() as patched:
        patched.setattr(Version, "start", full)
        rolling._roll()
    assert (rolling.rolls[-1]["ok"], rolling.rolls[-1]["refused"]) == (False, False)
    assert archive.read_bytes() == b"second"
    assert copies(rolling) == [b"archive"]
    assert not list((rolling.model_store / "previous").iterdir())
    rolling._roll()
    assert copies(rolling) == [b"second"]


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError()])
def test_when_the_last_step_fails_the_old_version_is_brought_back(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The stand-in had started: on the usual ports there is no room for the new one any more."""
    started: list[bytes] = []

    def start(self: TorchServe) -> None:
        started.append((self.model_store / "deepfake.mar").read_bytes())
        if self.ports == rolling.ports and started[-1] == b"second":
            raise error

    monkeypatch.setattr(Version, "start", start)
    (rolling.model_store / "deepfake.mar").write_bytes(b"second")
    rolling._roll()
    assert not rolling.rolls[-1]["ok"]
    assert started == [b"second", b"second", b"archive"]
    assert copies(rolling) == [b"archive"]


def test_a_way_back_that_is_refused_stays_the_way_back(rolling: Supervisor) -> None:
    archive, before = (rolling.model_store / n for n in ("deepfake.mar", "previous/deepfake.mar"))
    before.parent.mkdir()
    before.write_bytes(b"broken by now")
    swap(rolling.model_store)
    rolling._roll()
    assert rolling.rolls[-1]["refused"]
    assert archive.read_bytes() == b"archive"
    assert before.read_bytes() == b"broken by now"


def told(rolling: Supervisor, monkeypatch: pytest.MonkeyPatch, back: bool = False) -> str:
    """What `make roll` says, or `make rollback`, whose signal is answered here."""
    monkeypatch.setattr("deploy.roll.alive", lambda pid, mark: True)
    monkeypatch.setattr("deploy.roll.os.kill", lambda pid, number: rolling._roll())
    try:
        return roll(rolling.logs, 1, back)
    except RuntimeError as error:
        return str(error)


def test_a_way_back_for_which_there_was_no_room_is_tried_again(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: TorchServe) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rolling._write_record()
    before = rolling.model_store / "previous" / "deepfake.mar"
    before.parent.mkdir()
    before.write_bytes(b"the one before")
    with monkeypatch.context() as patched:
        patched.setattr(Version, "start", full)
        assert told(rolling, patched, back=True).endswith("To try again: make rollback")
    assert copies(rolling) == [b"archive"]
    assert told(rolling, monkeypatch, back=True).startswith("rolled in")
    assert copies(rolling) == [b"the one before"]


def test_a_roll_says_where_a_refused_version_is_and_when_nothing_was_new(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolling._write_record()
    refused = rolling.model_store / REFUSED
    archive = rolling.model_store / "deepfake.mar"
    archive.write_bytes(b"broken")
    said = told(rolling, monkeypatch)
    assert said.startswith("the archive is damaged; the old version goes on serving.")
    assert f"mv {refused} {archive} and make roll" in said
    said = told(rolling, monkeypatch)  # make has nothing to build: the sources are as they were
    assert f"to the version that was running; one that was refused lies in {refused}" in said
    archive.write_bytes(b"second")
    assert told(rolling, monkeypatch) == "rolled in 0 s"


def test_what_cannot_be_started_now_is_started_later(
    rolling: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without memory for another process the watching goes on, and does not end the page too."""

    def start(self: TorchServe) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(Version, "start", start)
    monkeypatch.setattr("deploy.supervisor.time.sleep", lambda seconds: None)
    for _ in range(2):
        rolling._looked = 0
        rolling._watch_server()
    assert capsys.readouterr().out.count("could not be started (Cannot allocate memory)") == 2
    assert rolling.backoff.failures == 2


def test_what_is_read_once_is_kept_from_those_who_tidy_up(watched: Supervisor) -> None:
    """As systemd-tmpfiles asks: it leaves alone what it cannot lock."""
    folder = os.open(watched.temp, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    watched.stop()
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    watched.temp.mkdir()  # the fixture removes it


# What it asks


class Both(ThreadingHTTPServer):
    """TorchServe and the page in one, or a proxy between; keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BothHandler)
        self.asked: list[str] = []


class BothHandler(JsonHandler):
    server: Both

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        model = {"maxRetryTimeoutInSec": 300, "workers": [{"status": "READY"}]}
        self.reply(200, [model])

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(422, {"error": {"code": "no_face"}})


def test_a_proxy_of_the_environment_is_asked_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even what leads to this machine: it would get the management token."""
    server, proxy = Both(), Both()
    with serving(server), serving(proxy):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        port = server.server_port
        torchserve = TorchServe(tmp_path, tmp_path, Ports(port, port, port, port))
        assert torchserve._model()
        assert answers(torchserve)
        assert Page(port, tmp_path, tmp_path / "backend.json").ready()
        assert server.asked == ["/models/deepfake", "/predictions/deepfake", "/readyz"]
        assert proxy.asked == []
