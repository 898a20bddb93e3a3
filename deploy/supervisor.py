"""Keeps TorchServe and the page running, and moves them to another version of the model.

The page asks the TorchServe that a small file names (``BACKEND_FILE``). A new version is first
started beside the old one, on other ports, and must answer before anybody is sent to it; so a bad
archive never costs a request. Registering it with the running TorchServe would need
``enable_model_api``, which lets anyone on this machine, or a web page in a browser on it, load code
from any file.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from deploy import tokens
from deploy.page import GRACE, Page
from deploy.torchserve import HTTP, Ports, State, TorchServe, free_ports, held_folder

LOOK = 2.0  # seconds between two looks at TorchServe
SILENCE = 30.0  # seconds without an answer from its management API, after which it hangs
MARGIN = 10.0  # seconds after maxRetryTimeoutInSec: then TorchServe never starts a worker again
LOADING = 120.0  # seconds more for a worker that is there and has not loaded (startupTimeout)
RESTARTS = 6  # in a row, without a minute of work between them; then something else is wrong
WORKED = 60.0  # seconds of being ready after which the count begins anew
LONGEST_BACK_OFF = 30.0  # seconds before a start
DRAIN = 20.0  # seconds for those who ask TorchServe without the page, when everything stops
REFUSED = "deepfake.mar.refused"  # in the model store: an archive that did not start or answer
SERVED = "deepfake.mar.served"  # in the model store: a copy of the archive that ran last
GREY_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000400000004008000000008f022e0200000029494441"
    "5478daedcc411100000c0220a31bdd10fbed2000e951040281402010080402814020107c0f06df6d"
    "007970ba79fa0000000049454e44ae426082"
)
"""64 x 64 pixels: enough to be looked at."""


class Refused(RuntimeError):
    """A version did not start or answer, beside one that does: the fault is its own."""


class Backoff:
    """How long to wait before the next start, and when to give up."""

    def __init__(self) -> None:
        self.failures = 0
        self.ready_since: float | None = None

    def saw(self, ready: bool) -> None:
        """Note whether it is ready now."""
        if not ready:
            self.ready_since = None
            return
        self.ready_since = self.ready_since or time.monotonic()
        if time.monotonic() - self.ready_since >= WORKED:
            self.failures = 0

    def wait(self, name: str) -> float:
        """Seconds to wait before starting it again; RuntimeError after too many times."""
        self.failures += 1
        if self.failures > RESTARTS:
            raise RuntimeError(f"{name} was started {RESTARTS} times in vain")
        return min(LONGEST_BACK_OFF, 0.5 * float(2**self.failures))


class Supervisor:
    """TorchServe and the page, started, watched, rolled and stopped together.

    Args:
        model_store: folder with ``deepfake.mar``; the version before it is kept in ``previous``.
        logs: folder for the log files and for ``serve.json``, which says what runs.
        ports: where everything listens.
        timeout: seconds in which a TorchServe must become ready.
        token: whether TorchServe asks for tokens.
    """

    def __init__(
        self, model_store: Path, logs: Path, ports: Ports, timeout: float, token: bool = False
    ) -> None:
        self.model_store, self.logs, self.timeout = model_store.resolve(), logs.resolve(), timeout
        self.ports, self.token = ports, token
        self.record = self.logs / "serve.json"
        self.logs.mkdir(parents=True, exist_ok=True)
        if not (self.model_store / "deepfake.mar").is_file():
            raise RuntimeError(f"there is no deepfake.mar in {self.model_store}; make archive")
        self._lock = self._locked()
        temp, self._held = held_folder()
        self.temp = Path(temp)
        self.switch = self.temp / "backend.json"
        self.releases = 0
        self.rolls: list[dict[str, object]] = []
        self.rolling = False
        try:
            release = self._release()
        except OSError:  # no room: a restart every few seconds must not leave less of it each time
            shutil.rmtree(self.temp, ignore_errors=True)
            raise
        self.server = TorchServe(release, self.logs, ports, token)
        self.stand_in: TorchServe | None = None
        self.page = Page(ports.page, self.logs, self.switch)
        self.backoff, self.page_backoff = Backoff(), Backoff()
        self._answered = self._was_ready = time.monotonic()
        self._looked = 0.0
        self._roll_wanted = False

    def start(self) -> None:
        """Start both; returns once a photo would be judged, RuntimeError when that fails."""
        self._send_to(self.server)
        self.server.start()
        self.page.start()
        self._write_record()
        self.server.wait_ready(self.timeout)
        deadline = time.monotonic() + 30
        while not self.page.ready():
            if not self.page.running() or time.monotonic() > deadline:
                raise RuntimeError("the page did not start")
            time.sleep(0.2)
        self._remember()

    def run(self) -> None:
        """Watch both, and roll when asked to; ends only by an exception."""
        while True:
            self._watch_page()
            self._watch_server()
            if self._roll_wanted:
                self._roll_wanted = False
                self._roll()
            time.sleep(0.2)

    def _locked(self) -> int:
        """A file that is ours while we run: two services with one folder would undo each other."""
        lock = os.open(self.logs / "serve.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise RuntimeError(
                f"another service keeps its logs in {self.logs}; stop it, or give this one another "
                "folder: make serve ARGS='--logs logs-2 ...'"
            ) from error
        return lock

    def want_roll(self) -> None:
        """Move to the archive that now lies in the model store; safe in a signal handler."""
        self._roll_wanted = True

    def stop(self) -> None:
        """Finish what is under way, within ``GRACE + DRAIN`` seconds, and leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk must not keep us from stopping
            self._replace_switch({"stopping": True})  # new requests are told to come back later
        if self.page.running() and self.server.state() is State.READY:
            self.server.drain(GRACE)
        self.page.stop()
        if self.server.state() is State.READY and not self.server.drain(DRAIN):
            say("TorchServe is still asked without the page; those requests are cut off")
        for server in (self.server, self.stand_in):
            if server is not None:
                server.stop()
        os.close(self._held)
        shutil.rmtree(self.temp, ignore_errors=True)
        self.record.unlink(missing_ok=True)
        os.close(self._lock)

    def _watch_page(self) -> None:
        self.page_backoff.saw(self.page.running())
        if self.page.running():
            return
        pause = self.page_backoff.wait("the page")
        say(f"the page has ended; starting it again in {pause:.0f} s")
        self.page.stop()
        time.sleep(pause)
        self._try(self.page.start)

    def _watch_server(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked, state = now, self.server.state()
        self._was_ready = now if state is State.READY else self._was_ready
        self._answered = now if state is not State.SILENT else self._answered
        self.backoff.saw(state is State.READY)
        if not self._overdue(state, now):
            return
        pause = self.backoff.wait("TorchServe")
        say(f"TorchServe: {state.value}; starting it again in {pause:.0f} s")
        self.server.stop(patience=5)
        time.sleep(pause)
        self._try(self.server.start)
        self._answered = self._was_ready = time.monotonic()

    def _try(self, start: Callable[[], None]) -> None:
        """Start something; what the machine has no room for is found dead at the next look."""
        try:
            start()
        except OSError as error:
            say(f"it could not be started ({error.strerror})")
        self._write_record()

    def _overdue(self, state: State, now: float) -> bool:
        """Whether TorchServe will not become ready by itself any more."""
        window = now - self._was_ready - self.server.retry_window
        return {
            State.DEAD: True,
            State.SILENT: now - self._answered >= SILENCE,
            State.WORKERLESS: window >= MARGIN,
            State.STARTING: window >= LOADING,
            State.READY: False,
        }[state]

    def _roll(self) -> None:
        started = time.monotonic()
        say("rolling to another version")
        self.rolling = True
        self._write_record()
        try:
            result: dict[str, object] = {"ok": True, "same": self._change_over()}
        except (RuntimeError, OSError) as error:
            result = {"ok": False, "reason": str(error), "refused": isinstance(error, Refused)}
            (self.model_store / "previous" / "part").unlink(missing_ok=True)
            if isinstance(error, Refused):
                self._put_aside()
        self._send_to(self.server)  # whichever version that is now
        if self.stand_in is not None:
            self.stand_in.drain(GRACE)
            self.stand_in.stop()
            self.stand_in = None
        self._tidy()
        self._answered = self._was_ready = time.monotonic()
        self.rolls.append(result | {"seconds": round(time.monotonic() - started, 1)})
        self.rolling = False
        self._write_record()
        say("rolled" if result["ok"] else f"not rolled: {result['reason']}")

    def _change_over(self) -> bool:
        """Old version -> new one as a stand-in on other ports -> new one on the usual ports.

        Returns:
            Whether both are the same archive.
        """
        old, release = self.server, self._release()
        keep = self.model_store / "previous"
        keep.mkdir(exist_ok=True)
        shutil.copyfile(old.model_store / "deepfake.mar", keep / "part")
        ports = Ports(*free_ports(4))
        self.stand_in = TorchServe(release, self.logs / "stand-in", ports, self.token)
        try:
            self._bring_up(self.stand_in)
        except RuntimeError as error:
            raise Refused(str(error)) from error
        self._send_to(self.stand_in)
        old.drain(GRACE)
        old.stop()
        new = TorchServe(release, self.logs, self.ports, self.token)
        self.server = new
        try:
            self._bring_up(new)
        except (RuntimeError, OSError):
            # It worked a moment ago, so the machine is at fault; the old version served on it.
            new.stop()
            self.server = old
            self._bring_up(old)
            raise
        same = filecmp.cmp(keep / "part", release / "deepfake.mar", shallow=False)
        if same:
            (keep / "part").unlink()  # the same once more: what was before it stays before it
        else:
            os.replace(keep / "part", keep / "deepfake.mar")
        self._remember()
        return same

    def _remember(self) -> None:
        """Keep a copy of what runs, for when make has put a new archive in its place.

        What ran before, if it was another, is then what `make rollback` goes back to: after a
        restart with a new version as well.
        """
        running, served = self.server.model_store / "deepfake.mar", self.model_store / SERVED
        keep, part = self.model_store / "previous", self.model_store / f"{SERVED}.part"
        try:
            if served.is_file() and filecmp.cmp(served, running, shallow=False):
                return
            shutil.copyfile(running, part)
            if served.is_file():
                keep.mkdir(exist_ok=True)
                os.replace(served, keep / "deepfake.mar")
            os.replace(part, served)
        except OSError as error:
            say(f"a way back cannot be kept ({error.strerror})")

    def _put_aside(self) -> None:
        """After a version was refused: the one that runs is what the next start will take."""
        store, running = self.model_store, self.server.model_store / "deepfake.mar"
        archive, part = store / "deepfake.mar", store / "deepfake.mar.part"
        before = store / "previous" / "deepfake.mar"
        try:
            if archive.is_file() and filecmp.cmp(running, archive, shallow=False):
                return  # the same once more: the machine is at fault
            shutil.copyfile(running, part)  # newer than the sources, or make would build them again
            if archive.is_file():
                way_back = before.is_file() and filecmp.cmp(running, before, shallow=False)
                # What was to be gone back to, and has changed places with what runs, changes back.
                os.replace(archive, before if way_back else store / REFUSED)
            os.replace(part, archive)
        except OSError as error:
            say(f"{archive} is still the refused one ({error.strerror})")

    def _bring_up(self, server: TorchServe) -> None:
        server.start()
        self._write_record()
        server.wait_ready(self.timeout)
        if not answers(server):
            raise RuntimeError("the new version does not answer as it should")

    def _release(self) -> Path:
        """A copy of the archive as it is now: a restart must not become a change of version."""
        self.releases += 1
        folder = self.temp / str(self.releases)
        folder.mkdir()
        shutil.copyfile(self.model_store / "deepfake.mar", folder / "deepfake.mar")
        return folder

    def _tidy(self) -> None:
        """Remove the copies of archives that no longer run; the way back is in ``previous``."""
        for folder in self.temp.iterdir():
            if folder.is_dir() and folder.resolve() != self.server.model_store:
                shutil.rmtree(folder, ignore_errors=True)

    def _send_to(self, server: TorchServe) -> None:
        """Have the page ask this one from now on."""
        management = f"http://127.0.0.1:{server.ports.management}"
        file = str(server.key_file) if server.token else None
        self._replace_switch(
            {"torchserve": server.url, "management": management, "token_file": file}
        )

    def _replace_switch(self, content: dict[str, object]) -> None:
        part = self.temp / "part.json"
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, self.switch)

    def _write_record(self) -> None:
        """What runs, for `make stop` and `make roll`. A full disk must not stop the service."""
        servers = [s for s in (self.server, self.stand_in) if s is not None and s.process]
        record = {
            "serve": os.getpid(),
            "page": self.page.process.pid if self.page.process else None,
            "torchserve": [s.process.pid for s in servers if s.process],
            "folders": [str(self.temp), *(s.temp for s in servers)],
            "model_store": str(self.model_store),
            "rolling": self.rolling,
            "rolls": self.rolls,
        }
        part = self.record.with_suffix(".part")
        try:
            part.write_text(json.dumps(record), encoding="utf-8")
            os.replace(part, self.record)
        except OSError as error:
            say(f"{self.record} cannot be written ({error.strerror})")


def answers(server: TorchServe) -> bool:
    """Whether a server finds no face in a grey picture: it decodes, and it looks."""
    url = f"{server.url}/predictions/deepfake"
    try:
        token = tokens.token(server.key_file, "inference", server.ports.management)
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        answer = HTTP.post(url, data=GREY_PNG, headers=bearer, timeout=60).json()
        return bool(answer["error"]["code"] == "no_face")
    except (OSError, ValueError, KeyError, TypeError):  # requests' errors are OSErrors
        return False


def say(words: str) -> None:
    """Tell whoever started us; where nobody listens any more, nobody."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)
