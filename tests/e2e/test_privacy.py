"""Nothing of an upload is left behind: not in files, not in logs, not for a moment on a disk.

Photos with markers in every place that a client can fill go through page and service, good ones
and bad ones. Then the markers are looked for in every file that the processes have, and, where
strace is installed, in all that they wrote meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from PIL import Image, PngImagePlugin

from tests.conftest import ASTRONAUT, ROOT
from tests.e2e.conftest import Service, start, stop, upload
from tests.e2e.test_launcher import servers

MARK = b"Zq7-UPLOAD-MARKER-v4Kx"
NAME = "Zq7-UPLOAD-MARKER-v4Kx"
# As base64 shows it, whatever stands before it.
HIDDEN = [base64.b64encode(bytes(n) + MARK + bytes(2))[4:-8] for n in range(3)]
WRITES = "write,pwrite64,writev,pwritev,pwritev2,openat,open,creat,memfd_create,mknod,mknodat"


def encoded(kind: str, **options: object) -> bytes:
    """A photo with a face, whose top rows of pixels spell the marker."""
    photo = Image.open(ASTRONAUT).convert("RGB")
    row = (MARK * 100)[: 3 * photo.width]
    photo.paste(Image.frombytes("RGB", (photo.width, 1), row), (0, 0))
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = NAME  # description, artist
    return encoded("JPEG", exif=exif, comment=MARK)


def with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text(NAME, NAME)
    return encoded("PNG", pnginfo=text)


# Some 800 kB: frameworks put files of that size on a disk.
PHOTOS = {"pixels": encoded("TIFF"), "EXIF": with_exif(), "text": with_text()}
BAD = {
    "no photo": MARK * 50_000,
    "half a photo": with_exif()[:4000],
    "too large": PHOTOS["pixels"] + MARK * 10**6,
}


@dataclass
class Ran:
    """What came of the uploads.

    Attributes:
        answers: by what was sent.
        files: everything that the service's processes could have written to.
        trace: strace's record, empty where there is none.
    """

    answers: dict[str, requests.Response]
    files: list[Path]
    trace: str


def send_all(service: Service) -> dict[str, requests.Response]:
    """Every photo, good or bad, by the page, and two of them by every way in."""
    api = f"{service.page}/api/detect?note={NAME}"
    direct = f"{service.url}?note={NAME}"
    headers = {"User-Agent": NAME, "X-Note": NAME, "Cookie": f"note={NAME}", "Referer": NAME}
    answers = {}
    for what, blob in (PHOTOS | BAD).items():
        answers[f"{what}, page"] = upload(service, blob, note=NAME, **{NAME: NAME})
    for what in ("pixels", "half a photo"):
        blob = (PHOTOS | BAD)[what]
        form = {"image": (f"{NAME}.jpg", blob, "image/jpeg")}
        text = {"image": base64.b64encode(blob).decode(), "note": NAME}
        for name, request in {
            "form": {"files": form, "data": {"note": NAME, NAME: NAME}},
            "raw": {"data": blob},
            "JSON": {"json": text},
        }.items():
            for way, url in (("route", api), ("service", direct)):
                answers[f"{what}, {way}, {name}"] = requests.post(
                    url, headers=headers, timeout=60, **request
                )
    explain = api.replace("detect", "explain")
    answers["pixels, route, explain"] = requests.post(explain, data=PHOTOS["pixels"], timeout=60)
    misled = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl --data-binary
    for what, body in {"web form": MARK + b"%zz=x", "web form of a photo": PHOTOS["EXIF"]}.items():
        for way, url in (("route", api), ("service", service.url)):
            answers[f"{what}, {way}"] = requests.post(url, data=body, headers=misled, timeout=60)
    return answers


def say_nonsense(service: Service) -> None:
    """Markers where HTTP has no place for them."""
    for url in (service.page, service.url):
        port = int(re.search(r":(\d+)", url.removeprefix("http:"))[1])
        for blob in (
            MARK + b"\r\n\r\n",
            b"GET /%b HTTP/9\r\n\r\n" % MARK,
            b"GET / HTTP/1.1\r\n" + MARK,
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(blob)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    connection.recv(4096)


@contextlib.contextmanager
def tracing(pids: list[int], record: Path) -> Iterator[None]:
    """strace on all threads of the processes, from its first line to the end of the block."""
    if shutil.which("strace") is None:
        yield
        return
    command = ["strace", "-f", "-y", "-s", "20000", "-e", f"trace={WRITES}", "-o", str(record)]
    command += [option for pid in pids for option in ("-p", str(pid))]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        for _ in pids:
            assert b"attached" in strace.stderr.readline()
        try:
            yield
        finally:
            strace.terminate()
            strace.stderr.read()


def written(pids: list[int], *folders: Path) -> list[Path]:
    """The files under the folders, under where the processes work, and those they hold open."""
    places = {*folders, *(Path(os.readlink(f"/proc/{pid}/cwd")) for pid in pids)} - {ROOT}
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                flags = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1]
                if int(flags.split()[0], 8) & os.O_ACCMODE and fd.is_file():
                    files.append(Path(f"/proc/{pid}/fd/{fd.name}"))
    return files


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    temp, record = tmp_path_factory.mktemp("temp"), tmp_path_factory.mktemp("trace") / "strace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temp))
        service = start(tmp_path_factory.mktemp("logs"))
    try:
        pids = servers(service)
        with tracing(pids, record):
            answers = send_all(service)
            say_nonsense(service)
            time.sleep(1)  # for what is written behind the answers' backs
        trace = record.read_text(errors="replace") if record.exists() else ""
        yield Ran(answers, written(pids, temp, service.logs), trace)
    finally:
        stop(service)


def marked(blob: bytes) -> bool:
    return any(mark in blob for mark in (MARK, *HIDDEN))


def test_the_search_would_find_a_marker() -> None:
    assert all(marked(photo) for photo in PHOTOS.values() if photo[:2] != b"\x89P")
    assert all(marked(base64.b64encode(photo)) for photo in (PHOTOS["pixels"], PHOTOS["EXIF"]))


def test_the_photos_came_through(ran: Ran) -> None:
    assert len(ran.answers) == 6 + 12 + 1 + 4
    for what, answer in ran.answers.items():
        if what.partition(",")[0] in PHOTOS:
            assert answer.status_code == 200, what
        elif "web form" in what and "service" in what:  # see SECURITY.md
            assert answer.status_code == 500, what
        elif what != "web form of a photo, route":
            assert 400 <= answer.status_code < 500, what


def test_no_file_holds_anything_of_an_upload(ran: Ran) -> None:
    names = {path.name for path in ran.files}
    assert {"page.log", "torchserve.log", "access.log", "saved_model.pth"} <= names
    assert [path for path in ran.files if marked(path.read_bytes())] == []
    assert [path for path in ran.files if NAME in path.name] == []


def test_logs_tell_no_verdicts(ran: Ran) -> None:
    logs = [path for path in ran.files if path.suffix == ".log"]
    assert len(logs) >= 4
    for path in logs:
        assert not re.search(r"fake_probability|verdicts_total|label:", path.read_text()), path


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_nothing_of_an_upload_is_written_to_any_file(ran: Ran) -> None:
    to_files = [line for line in ran.trace.splitlines() if re.search(r"write\w*\(\d+</", line)]
    assert any("access.log" in line for line in to_files), "the trace misses what is written"
    assert [line[:300] for line in to_files if marked(line.encode())] == []


@needs_strace
def test_no_file_is_opened_for_writing_but_logs(ran: Ran) -> None:
    opened = re.findall(r'(?:open(?:at)?\([^"]*|creat\()"([^"]*)"(.*)', ran.trace)
    assert opened, "the trace misses what is opened"
    made = {path for path, flags in opened if re.search("O_WRONLY|O_RDWR|O_CREAT|O_TMP", flags)}
    strange = {p for p in made if not re.fullmatch(r"/dev/(null|shm/\S+)|/proc/\S+|\S+\.log", p)}
    assert strange == set()
    assert "memfd_create" not in ran.trace


def test_no_answer_of_the_page_shows_its_inside(ran: Ran) -> None:
    for what, answer in ran.answers.items():
        if "page" in what or "route" in what:
            assert answer.headers["Cache-Control"] == "no-store", what
            for inside in ("Traceback", "site-packages", str(ROOT), "/tmp/", "java", "netty"):
                assert inside not in answer.text, what


def test_answers_about_photos_are_kept_nowhere(ran: Ran) -> None:
    for what, answer in ran.answers.items():
        if answer.content:
            assert "no-store" in answer.headers["Cache-Control"], what
