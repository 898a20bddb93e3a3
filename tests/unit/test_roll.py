"""Moving to another archive and back: which one runs then, which is kept, and what is said."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from deploy.roll import roll, swap
from deploy.supervisor import REFUSED, Supervisor
from deploy.torchserve import TorchServe
from tests.unit.supervised import Version


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


def no_room(server: TorchServe) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


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

    archive = rolling.model_store / "deepfake.mar"
    archive.write_bytes(b"second")
    with monkeypatch.context() as patched:
        patched.setattr(Version, "start", no_room)
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
    rolling._write_record()
    before = rolling.model_store / "previous" / "deepfake.mar"
    before.parent.mkdir()
    before.write_bytes(b"the one before")
    with monkeypatch.context() as patched:
        patched.setattr(Version, "start", no_room)
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
