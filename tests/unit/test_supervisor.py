"""When the supervisor starts something again, how long it waits, and when it gives up."""

from __future__ import annotations

import errno
import fcntl
import os
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import supervisor
from deploy.page import Page
from deploy.supervisor import Backoff, Supervisor, answers
from deploy.torchserve import Ports, State, TorchServe
from tests.unit.backend import JsonHandler, serving
from tests.unit.supervised import Version


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


def test_a_full_disk_does_not_stop_it(
    watched: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    watched.record = Path("/dev/full/serve.json")
    watched._write_record()
    assert "cannot be written" in capsys.readouterr().out


def test_a_server_that_never_ran_is_dead_and_can_be_stopped(tmp_path: Path) -> None:
    server = TorchServe(tmp_path, tmp_path)
    assert server.state() is State.DEAD
    server.stop()


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
