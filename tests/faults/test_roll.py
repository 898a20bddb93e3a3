"""Stopping, moving to a new version and back, while people go on sending photos."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from deploy.torchserve import free_ports
from tests.e2e.conftest import ROOT, Service, archived, stop
from tests.faults.conftest import Start, ready, variant
from tests.faults.load import Load, Outcome, ask, record


def api(service: Service) -> str:
    return f"{service.page}/api/detect"


def processes(service: Service) -> list[psutil.Process]:
    """The launcher, the page, Java and the workers."""
    launcher = psutil.Process(service.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def left(all_of_them: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(all_of_them, timeout=10)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def command(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`make stop`, `make roll` and `make rollback` without make, which would build the archive."""
    return subprocess.run(
        [sys.executable, "-m", program, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "make stop"])
def test_stopping_finishes_what_is_under_way(launch: Start, how: str) -> None:
    service = launch()
    everything, folder = processes(service), service.logs
    temp = json.loads((folder / "serve.json").read_text(encoding="utf-8"))["folders"]
    with Load(api(service), clients=6) as load:
        time.sleep(2)
        told = time.monotonic()
        if how.startswith("SIG"):  # SIGHUP: the terminal was closed
            service.process.send_signal(signal.Signals[how])
        else:
            done = command("deploy.stop", "--logs", str(folder))
            assert "stopped" in done.stdout, done.stderr
        service.process.wait(120)
        took = time.monotonic() - told
        time.sleep(0.5)
    begun_before = [o for o in load.outcomes if o.begun < told - 0.1]
    assert {o.status for o in begun_before} == {200}, "what was under way was finished"
    later = {o.code for o in load.outcomes if o.status != 200}
    assert "stopping" in later
    assert later <= {"stopping", "ConnectionError"}, later
    assert took < 90
    assert left(everything) == [], "nothing is orphaned"
    assert not any(Path(each).exists() for each in temp)
    assert not (folder / "serve.json").exists()
    record(f"stop under load ({how})", load, stop_s=took)


def test_who_asks_torchserve_itself_is_answered_before_it_stops(launch: Start) -> None:
    service = launch()
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(ask(service.url))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert "stopped" in stop(service)
    for thread in threads:
        thread.join()
    assert [o.status for o in outcomes] == [200] * 12


def as_version(version: str, store: Path, **config: object) -> None:
    def change(name: str, content: bytes) -> bytes:
        if name != "MAR-INF/MANIFEST.json":
            return content
        manifest = json.loads(content)
        manifest["model"]["modelVersion"] = version
        return json.dumps(manifest).encode()

    variant(store, change, **config)


def version(outcome: Outcome) -> str:
    return str(outcome.body["model"]["version"])


def check_change(load: Load, old: str, new: str) -> None:
    """Once one request was answered by the new version, all that were sent after it were."""
    load.check()  # every one of them with a verdict
    first = min(o.ended for o in load.outcomes if version(o) == new)
    assert {version(o) for o in load.outcomes if o.begun > first} == {new}
    assert {version(o) for o in load.outcomes} == {old, new}


def test_a_new_version_and_the_way_back_lose_no_request(launch: Start, tmp_path: Path) -> None:
    service = launch()
    logs = ("--logs", str(service.logs))
    first = archived(tmp_path / "store")
    as_version("next", tmp_path / "store")
    steps = (((), first, "next"), (("--back",), "next", first), (("--back",), first, "next"))
    for options, old, expected in steps:
        everything = processes(service)
        with Load(api(service), clients=4) as load:
            done = command("deploy.roll", *logs, *options)
            assert done.returncode == 0, done.stderr
            assert "rolled in" in done.stdout
            load.until_answered(time.monotonic())
        check_change(load, old, expected)
        assert ask(service.url).body["model"]["version"] == expected, "on the usual port"
        gone = [p for p in everything if p not in processes(service)]
        assert left(gone) == []
        assert archived(tmp_path / "store" / "previous") == old
        record(f"rolled to version {expected}", load, roll_s=float(done.stdout.split()[2]))


def test_the_page_finds_the_tokens_of_the_new_version(launch: Start, tmp_path: Path) -> None:
    service = launch("--token")
    first = archived(tmp_path / "store")
    as_version("next", tmp_path / "store")
    with Load(api(service), clients=2) as load:
        done = command("deploy.roll", "--logs", str(service.logs))
        assert done.returncode == 0, done.stderr
        load.until_answered(time.monotonic())
    check_change(load, first, "next")
    assert ask(service.url).status == 400, "without a token"
    record("rolled with tokens", load, roll_s=float(done.stdout.split()[2]))


def break_checkpoint(name: str, content: bytes) -> bytes:
    return content[: len(content) // 2] if name == "saved_model.pth" else content


def break_archive(store: Path) -> None:
    archive = store / "deepfake.mar"
    archive.write_bytes(archive.read_bytes()[:100_000])


def break_handler(name: str, content: bytes) -> bytes:
    return b"import nothing_of_this_name" if name == "deepfake_handler.py" else content


@pytest.mark.parametrize("broken", ["archive", "checkpoint", "handler"])
def test_a_broken_version_is_refused_and_the_old_one_serves_on(
    launch: Start, tmp_path: Path, broken: str
) -> None:
    service, store = launch(), tmp_path / "store"
    first = archived(store)
    if broken == "archive":
        break_archive(store)
    else:
        variant(store, {"checkpoint": break_checkpoint, "handler": break_handler}[broken])
    with Load(api(service), clients=3) as load:
        done = command("deploy.roll", "--logs", str(service.logs))
        assert done.returncode == 1
        assert "the old version goes on serving" in done.stderr
        assert "Traceback" not in done.stderr
        load.until_answered(time.monotonic())
    load.check()
    assert {version(o) for o in load.outcomes} == {first}
    assert ready(service)
    assert archived(store) == first, "what the next start takes"
    assert (store / "deepfake.mar.refused").is_file()
    record(f"roll to a broken {broken}", load, said=done.stderr.strip())


@pytest.mark.parametrize("broken", ["archive", "checkpoint"])
def test_a_service_whose_archive_is_broken_says_so(tmp_path: Path, broken: str) -> None:
    store = tmp_path / "store"
    variant(store, break_checkpoint if broken == "checkpoint" else None)
    if broken == "archive":
        break_archive(store)
    names = ("page", "inference", "management", "metrics")
    ports = [
        option
        for name, port in zip(names, free_ports(4), strict=True)
        for option in (f"--{name}-port", str(port))
    ]
    begun = time.monotonic()
    options = ("--model-store", str(store), "--logs", str(tmp_path / "logs"), *ports)
    done = command("deploy.serve", *options)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 120
    print(f"{broken}: {done.stderr.splitlines()[0]} ({time.monotonic() - begun:.0f} s)")
