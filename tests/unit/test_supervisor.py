"""When the supervisor starts something again, how long it waits, and when it gives up."""

from __future__ import annotations

import json
import shutil
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
    rolling._roll()
    assert [roll["ok"] for roll in rolling.rolls] == [True, True, False]
    assert copies(rolling) == [b"third"]
    assert (rolling.server.model_store / "deepfake.mar").read_bytes() == b"third"
    # The next start takes the one that runs, and make does not build the refused one again.
    assert archive.read_bytes() == b"third"
    assert archive.with_name(REFUSED).read_bytes() == b"broken"
    assert sorted(p.name for p in (rolling.model_store / "previous").iterdir()) == ["deepfake.mar"]
    swap(rolling.model_store)  # what make rollback does
    rolling._roll()
    assert copies(rolling) == [b"second"]
    assert json.loads(rolling.switch.read_text())["torchserve"] == rolling.server.url


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
