"""Scoring many photos with Ray, for real: on this machine, with a worker that is killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepfake.checkpoint import Checkpoint, save
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from scoring.parts import PART
from tests.conftest import ASTRONAUT, FAKES, ROOT
from tests.documents import blocks_for

PHOTOS = 300


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    path = tmp_path_factory.mktemp("model") / "saved_model.pth"
    save(path, make_checkpoint(), half=False)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred files: photos again and again, one without a face, one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(PHOTOS):
        (folder / f"{i % 7}").mkdir(exist_ok=True)
        shutil.copy((ASTRONAUT, *FAKES)[i % (1 + len(FAKES))], folder / f"{i % 7}" / f"{i}.jpg")
    (folder / "text.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("not even called one")
    return folder


def start(source: Path, out: Path, checkpoint: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scoring.score", str(source), "--out", str(out)]
    command += ["--checkpoint", str(checkpoint), "--part", "40", "--batch-size", "8", *more]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal: what a script starts in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def rows_in(out: Path) -> list[dict[str, Any]]:
    """Of all parts that are whole; a writer that was killed leaves one without its end."""
    return [row for path in sorted(out.glob("*.parquet")) for row in whole(path)]


def whole(part: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(part).to_pylist()
    except pa.ArrowInvalid:
        return []
    return rows


def workers_of(pid: int) -> list[int]:
    """Ray's scoring processes among the descendants of a process."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ray::MapWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def waits_at_a_pipe(pid: int) -> bool:
    """Whether one of its threads opens a pipe that nobody has opened to write."""
    with contextlib.suppress(OSError):  # it has ended meanwhile
        places = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/wchan")]
        return "wait_for_partner" in places
    return False


def until(found: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        if process.poll() is not None:
            pytest.fail(f"it ended before: {process.communicate()[0]}")
        time.sleep(0.05)
    process.kill()
    pytest.fail("it never happened")


def test_every_photo_is_scored_once_though_a_worker_is_killed_and_then_the_job(
    tmp_path: Path, photos: Path, checkpoint: Path
) -> None:
    out = tmp_path / "scores"
    process = start(photos, out, checkpoint, "--part", "10")  # 30: it is far from done below
    victim = until(lambda: workers_of(process.pid), process)[0]
    until(lambda: list(out.glob("*.parquet")), process)
    helpers = psutil.Process(process.pid).children(recursive=True)
    os.kill(victim, signal.SIGKILL)
    seen = len(list(out.glob("*.parquet")))
    until(lambda: len(list(out.glob("*.parquet"))) > seen, process)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    psutil.wait_procs(helpers, timeout=60)  # one may be writing its part to the end
    assert process.returncode == 130, text
    assert "same command again" in text

    before = len(rows_in(out))
    written = [path.name for path in out.iterdir()]
    assert [name for name in written if not PART.fullmatch(name)] == []
    half_written = re.sub(r"_\d{6}-", "_999999-", written[0])
    (out / half_written).write_bytes(b"PAR1")  # what a full disk leaves
    text = finish(start(photos, out, checkpoint))
    assert f"{PHOTOS + 1} photos, {before} of them scored before" in text
    rows = rows_in(out)
    paths = [row["path"] for row in rows]
    assert sorted(paths) == sorted(str(p) for p in photos.rglob("*.jpg"))

    again = finish(start(photos, out, checkpoint))
    assert f"{PHOTOS + 1} photos, {PHOTOS + 1} of them scored before" in again
    assert len(rows_in(out)) == PHOTOS + 1


def test_rows_are_what_the_library_says(tmp_path: Path, checkpoint: Path) -> None:
    listed = [str(ASTRONAUT), str(FAKES[0]), str(tmp_path / "missing.jpg"), str(ROOT / "LICENSE")]
    pq.write_table(pa.table({"path": listed}), tmp_path / "photos.parquet")
    out = tmp_path / "scores"
    text = finish(start(tmp_path / "photos.parquet", out, checkpoint))
    assert "4 photos in" in text
    rows = {row["path"]: row for row in rows_in(out)}
    pipeline = Pipeline.from_file(checkpoint)
    for path in listed[:2]:
        (expected,) = pipeline.predict([Path(path).read_bytes()])
        assert isinstance(expected, Verdict)
        told = expected.to_json()
        for name in ("label", "verdict", "faces_found"):
            assert rows[path][name] == told[name]
        assert rows[path]["fake_probability"] == pytest.approx(told["fake_probability"], abs=1e-3)
        assert rows[path]["error"] is None
    assert rows[listed[2]]["error"] == "bad_data"
    assert rows[listed[3]]["error"] == "unsupported_format"
    assert rows[listed[3]]["label"] is None


def test_a_photo_at_which_workers_die_costs_no_other(tmp_path: Path, checkpoint: Path) -> None:
    """A pipe that nobody writes to, at which a worker waits until it is killed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in (ASTRONAUT, *FAKES[:4]):
        shutil.copy(photo, folder)
    deadly = folder / "pipe.jpg"
    os.mkfifo(deadly)
    out = tmp_path / "scores"
    process = start(folder, out, checkpoint, "--part", "1", "--batch-size", "1")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        for worker in filter(waits_at_a_pipe, workers_of(process.pid)):
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.2)
    text = finish(process)
    # One more, where it waited behind the pipe in the worker both times that this was killed.
    assert re.search(r"^\d+ photos? w(as|ere) lost with a worker", text, re.MULTILINE), text
    errors = {row["path"]: row["error"] for row in rows_in(out)}
    assert errors.pop(str(deadly)) == "internal_error"
    assert list(errors.values()) == [None] * 5


def test_a_disk_that_takes_nothing_is_said_in_a_sentence(
    tmp_path: Path, photos: Path, checkpoint: Path
) -> None:
    """A file lies where the folder was: the workers cannot write, as where a disk is full."""
    out = tmp_path / "scores"
    process = start(photos, out, checkpoint)
    until(out.exists, process)
    out.rmdir()
    out.write_text("in the way")
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 1, text
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("error: ")
    assert str(out) in text.splitlines()[-1]


def test_what_the_document_says_works(tmp_path: Path, checkpoint: Path) -> None:
    """Its command over a folder, and its program over what came of that."""
    (tmp_path / "photos").mkdir()
    for photo in (ASTRONAUT, FAKES[0]):
        shutil.copy(photo, tmp_path / "photos")
    shutil.copy(checkpoint, tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    command, program = (block.text for block in blocks_for(__file__))
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=300)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.search(r"^(Real|Fake|Uncertain) +NaN +\d$", done.stdout, re.MULTILINE), done.stdout
