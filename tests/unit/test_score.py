"""What `deepfake-score` makes of its input and of what lies in --out; Ray is left out here."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from deepfake.checkpoint import Checkpoint, OperatingPoint, save
from deepfake.errors import DataError
from deepfake.images import MAX_BYTES
from scoring import parts, score
from scoring.sources import paths_of
from tests.conftest import ASTRONAUT, FAKES, ROOT, Ended, sentence

NAME = f"0354OJ4dNRcxxc5CA1S1NJ_{'0a' * 16}_{{:06}}-0.parquet"  # as Ray names a part

Program = Callable[..., Ended]


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Checkpoint]
) -> Path:
    path = tmp_path_factory.mktemp("model") / "saved_model.pth"
    points = {"strict": OperatingPoint(0.9)}
    save(path, replace(make_checkpoint(), operating_points=points), half=False)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in (ASTRONAUT, FAKES[0]):
        shutil.copy(photo, folder)
    return folder


@pytest.fixture
def program(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    checkpoint: Path,
) -> Program:
    """Run it with --out scores: exit status, output, errors. One worker, in this process."""
    numbers = count()

    def alone(opt: argparse.Namespace, paths: list[str], alone: bool = False) -> None:
        worker = score.Scorer(str(opt.checkpoint), opt.point, threads=1)
        pq.write_table(worker({"path": np.array(paths)}), opt.out / NAME.format(next(numbers)))

    monkeypatch.setattr(score, "score", alone)

    def call(source: object, *more: object) -> Ended:
        options = ["--checkpoint", checkpoint, "--out", tmp_path / "scores", *more]
        monkeypatch.setattr(sys, "argv", ["deepfake-score", str(source), *map(str, options)])
        capsys.readouterr()
        status = score.main()
        return status, *capsys.readouterr()

    return call


def rows_in(out: Path) -> dict[str, dict[str, Any]]:
    """By path; as the document reads them."""
    rows = ds.dataset(out, format="parquet").to_table().to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows), "a path has two rows"
    return by_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_of_a_killed_run_only_the_part_that_was_cut_off_goes(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    assert program(photos)[0] == 0
    whole = contents(out)
    (part,) = whole.values()
    for i, cut_off in enumerate((b"", b"PAR1", part[: len(part) // 2])):
        (out / NAME.format(i + 7)).write_bytes(cut_off)
    status, told, _ = program(photos)
    assert status == 0
    assert "2 photos, 2 of them scored before" in told
    assert contents(out) == whole


@pytest.mark.parametrize(
    ("name", "cut_off"),
    [("mine.parquet", False), (NAME.format(0), False), ("mine.parquet", True)],
    ids=["other columns", "other columns, named as a part", "no footer"],
)
def test_parquet_of_the_users_own_is_never_deleted(
    program: Program, photos: Path, tmp_path: Path, name: str, cut_off: bool
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    pq.write_table(pa.table({"path": ["a"], "price": [3]}), out / name)
    if cut_off:
        (out / name).write_bytes((out / name).read_bytes()[:50])
    (out / NAME.format(1)).write_bytes(b"PAR1")  # nor is anything else, then
    before = contents(out)
    said = sentence(program(photos))
    assert str(out / name) in said
    assert "another --out" in said
    assert contents(out) == before


def test_a_part_that_cannot_be_read_now_is_kept(
    program: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores"
    assert program(photos)[0] == 0
    before = contents(out)

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        for reader in ("ParquetFile", "read_table", "read_schema"):
            patched.setattr(pq, reader, failing)
        said = sentence(program(photos))
    assert "cannot be read" in said
    assert "Input/output error" in said
    assert contents(out) == before


def test_a_part_whose_rows_are_damaged_is_kept(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    assert program(photos)[0] == 0
    (part,) = out.iterdir()
    content = part.read_bytes()
    part.write_bytes(content[:4] + b"\xff" * 600 + content[604:])
    before = contents(out)
    said = sentence(program(photos))
    assert str(part) in said
    assert "cannot be read" in said
    assert contents(out) == before


def test_the_results_cannot_go_where_the_photos_are(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    before = contents(photos)
    said = sentence(program(photos, "--out", photos / ".." / "photos"))
    assert "--out" in said
    assert contents(photos) == before

    lists = tmp_path / "lists"
    lists.mkdir()
    pq.write_table(pa.table({"path": [str(ASTRONAUT)]}), lists / "photos.parquet")
    assert "--out" in sentence(program(lists, "--out", lists / "scores"))
    assert program(lists)[0] == 0
    assert program(photos, "--out", photos / "scores")[0] == 0  # below photos it disturbs nobody
    assert "2 of them scored before" in program(photos, "--out", photos / "scores")[1]


def test_a_folder_of_photos_is_not_taken_for_a_list_because_parquet_lies_in_it(
    program: Program, photos: Path
) -> None:
    pq.write_table(pa.table({"path": [str(ASTRONAUT)]}), photos / "some.parquet")
    said = sentence(program(photos))
    assert "holds photos and Parquet" in said
    assert "1 photos, 0 of them" in program(photos / "some.parquet")[1]


def test_thresholds_are_not_mixed(program: Program, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    assert program(photos, "--point", "strict")[0] == 0
    before = contents(out)
    assert {row["threshold"] for row in rows_in(out).values()} == {0.9}
    said = sentence(program(photos))
    assert "the threshold 0.9, not 0.5" in said
    assert "--point" in said
    assert contents(out) == before
    assert "2 of them scored before" in program(photos, "--point", "strict")[1]


def test_parts_of_an_older_version_are_told_apart(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    assert program(photos)[0] == 0
    (part,) = out.iterdir()
    pq.write_table(pq.read_table(part).drop_columns(["threshold"]), part)
    before = contents(out)
    assert "older version" in sentence(program(photos))
    assert contents(out) == before


def test_a_photo_that_could_not_be_read_is_asked_again(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    out, listed = tmp_path / "scores", tmp_path / "photos.txt"
    late, broken, never = (tmp_path / f"{name}.jpg" for name in ("late", "broken", "never"))
    broken.write_text("not a photo")
    listed.write_text("\n".join(map(str, (ASTRONAUT, late, broken, never))))
    assert program(listed)[0] == 0
    assert rows_in(out)[str(late)]["error"] == "bad_data"

    shutil.copy(FAKES[0], late)
    assert program(photos)[0] == 0  # another job into the same folder: these are not asked
    assert str(late) in rows_in(out)

    status, told, _ = program(listed)
    assert status == 0
    assert "4 photos, 2 of them scored before" in told
    rows = rows_in(out)
    assert len(rows) == 6
    assert rows[str(late)]["verdict"] is not None
    assert rows[str(never)]["error"] == "bad_data"
    assert rows[str(broken)]["error"] == "unsupported_format"

    for _ in range(2):
        assert "4 photos, 3 of them scored before" in program(listed)[1]
        assert rows_in(out) == rows


@pytest.mark.parametrize("code", ["out_of_memory", "internal_error"])
def test_so_is_one_that_met_a_passing_fault(
    program: Program, photos: Path, tmp_path: Path, code: str
) -> None:
    out = tmp_path / "scores"
    assert program(photos)[0] == 0
    expected = rows_in(out)
    (part,) = out.iterdir()
    first, second = pq.read_table(part).to_pylist()
    fault = {"path": first["path"], "error": code, "message": "Not now."}
    judge = {name: first[name] for name in ("checkpoint", "threshold")}
    pq.write_table(pa.Table.from_pylist([fault | judge, second], schema=parts.SCHEMA), part)
    assert "2 photos, 1 of them scored before" in program(photos)[1]
    assert rows_in(out) == expected


def test_a_full_disk_loses_no_row(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a part is written anew, since a row of it is asked again."""
    out, listed = tmp_path / "scores", tmp_path / "photos.txt"
    listed.write_text(f"{ASTRONAUT}\n{tmp_path / 'late.jpg'}\n")
    assert program(listed)[0] == 0
    rows = rows_in(out)

    def full(_: pa.Table, where: Path) -> None:
        where.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        assert "No space left on device" in sentence(program(listed))
    assert rows_in(out) == rows
    assert program(listed)[0] == 0
    assert rows_in(out) == rows


def test_a_single_photo_is_a_list_of_one(program: Program, tmp_path: Path) -> None:
    photo = tmp_path / "PHOTO.JPG"
    shutil.copy(ASTRONAUT, photo)
    status, told, _ = program(photo)
    assert status == 0
    assert told.startswith("1 photos, 0 of them scored before")
    assert rows_in(tmp_path / "scores")[str(photo)]["error"] is None


@pytest.mark.parametrize(
    "content", ["Café.jpg\n".encode("latin-1"), ASTRONAUT.read_bytes()], ids=["Latin-1", "a photo"]
)
def test_what_is_no_text_is_no_list(program: Program, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photos.list").write_bytes(content)
    said = sentence(program(tmp_path / "photos.list"))
    assert "photos.list is neither a photo" in said
    assert "UTF-8" in said


def test_a_name_that_is_not_utf8_does_not_stop_the_others(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        shutil.copy(ASTRONAUT, photos / name)
    except OSError:
        pytest.skip("this disk takes no such name")
    status, told, warned = program(photos)
    assert status == 0
    assert "2 photos, 0 of them scored before" in told
    assert "1 of 3 photos are left out" in warned
    assert "caf\\xe9.jpg" in warned
    assert len(rows_in(tmp_path / "scores")) == 2
    said = sentence(program(photos, "--out", tmp_path / name))
    assert "--out" in said
    assert "is not UTF-8" in said


def test_photos_have_the_names_they_have_in_the_folder(tmp_path: Path) -> None:
    """Also where these are links, as a cache of data sets makes them; loops end."""
    store, photos, more = (tmp_path / name for name in ("store", "photos", "more"))
    for folder in (store, photos, more, photos / "folder.jpg", photos / "z"):
        folder.mkdir()
    for place in (store / "0abc", more / "c.jpg", photos / "z" / "d.jpg"):
        shutil.copy(ASTRONAUT, place)
    for name in ("a.jpg", "b.JPG"):
        (photos / name).symlink_to(store / "0abc")
    (photos / "linked").symlink_to(more)
    (photos / "twice").symlink_to(more)
    (photos / "above").symlink_to(photos)
    (more / "back").symlink_to(photos / "z")  # which has a name without it
    assert paths_of(str(photos)) == [
        str(photos / name) for name in ("a.jpg", "b.JPG", "linked/c.jpg", "z/d.jpg")
    ]


def test_lists_and_columns_are_read_as_they_are_written(tmp_path: Path) -> None:
    listed, column = tmp_path / "photos.txt", tmp_path / "photos.parquet"
    listed.write_bytes("\ufeff/a.jpg\r\n\r\n/b\u2028c.jpg\n/b\x0cd.jpg".encode())
    assert paths_of(str(listed)) == ["/a.jpg", "/b\u2028c.jpg", "/b\x0cd.jpg"]
    pq.write_table(pa.table({"path": ["/a.jpg", None, ""]}), column)
    assert paths_of(str(column)) == ["/a.jpg"]
    pq.write_table(pa.table({"path": pa.array(["/a.jpg"]).dictionary_encode()}), column)
    assert paths_of(str(column)) == ["/a.jpg"]
    pq.write_table(pa.table({"path": [b"/a.jpg"]}), column)
    with pytest.raises(DataError, match=r"path of .* is binary, not text"):
        paths_of(str(column))


@pytest.mark.parametrize(
    "name", ["a#b.jpg", "a b.jpg", "a[1].jpg", "é.jpg", "100%.jpg", "a%20b.jpg"]
)
def test_addresses_lead_to_the_file_they_name(program: Program, tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("another file")
    shutil.copy(FAKES[0], tmp_path / name.replace("%20", " "))
    address = f"file://{tmp_path}/{name}"
    (tmp_path / "list.txt").write_text(address)
    assert program(tmp_path / "list.txt")[0] == 0
    assert rows_in(tmp_path / "scores")[address]["error"] is None


def test_of_a_huge_file_only_as_much_is_read_as_a_photo_may_have(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    with (photos / "film.tif").open("wb") as film:
        film.truncate(MAX_BYTES * 20)
    tracemalloc.start()
    assert program(photos)[0] == 0
    assert tracemalloc.get_traced_memory()[1] < MAX_BYTES * 5
    tracemalloc.stop()
    row = rows_in(tmp_path / "scores")[str(photos / "film.tif")]
    assert row["error"] == "image_too_large"
    assert "20 MB" in row["message"]


def test_other_files_beside_the_parts_do_not_matter(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "notes.txt").write_text("of the user")
    status, told, _ = program(photos)
    assert status == 0
    assert f"2 photos in {tmp_path / 'scores'}" in told


def test_an_out_that_is_no_folder_is_said(program: Program, photos: Path) -> None:
    licence = ROOT / "LICENSE"
    assert sentence(program(photos, "--out", licence)) == (
        f"error: --out {licence} is a file; give a folder."
    )
    assert str(licence) in sentence(program(photos, "--out", licence / "scores"))


Answers = Callable[[argparse.Namespace, list[str], bool], None]


def losing(kept: Answers, lost: Callable[[str, bool], bool]) -> Answers:
    """A Ray whose workers die at some photos: nothing is written of their parts."""

    def call(opt: argparse.Namespace, paths: list[str], alone: bool = False) -> None:
        parts = [[path] for path in paths] if alone else [paths]
        for part in parts:
            if not any(lost(path, alone) for path in part):
                kept(opt, part, alone)

    return call


def test_photos_that_were_lost_with_a_worker_are_scored_by_themselves(
    program: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = str(photos / ASTRONAUT.name)
    monkeypatch.setattr(score, "score", losing(score.score, lambda path, _: path == deadly))
    status, told, _ = program(photos)
    assert status == 0
    assert "2 photos were lost with a worker; each by itself:" in told
    rows = rows_in(tmp_path / "scores")
    assert rows[str(photos / FAKES[0].name)]["error"] is None
    assert rows[deadly]["error"] == "internal_error"
    assert "died" in rows[deadly]["message"]
    assert "1 internal_error" in told


def test_what_a_worker_died_at_is_asked_again(
    program: Program, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = score.score
    monkeypatch.setattr(score, "score", losing(sound, lambda path, _: ASTRONAUT.name in path))
    assert program(photos)[0] == 0
    monkeypatch.setattr(score, "score", sound)
    assert "2 photos, 1 of them scored before" in program(photos)[1]
    rows = rows_in(tmp_path / "scores")
    assert [row["error"] for row in rows.values()] == [None, None]


def test_where_most_rows_are_elsewhere_nothing_is_scored_twice(
    program: Program, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a cluster whose machines do not share --out."""
    asked: list[str] = []
    monkeypatch.setattr(score, "score", lambda opt, paths, alone=False: asked.extend(paths))
    for i in range(score.LOST):
        shutil.copy(FAKES[0], photos / f"{i}.jpg")
    said = sentence(program(photos, "--part", 1, "--batch-size", 1))
    assert "share" in said
    assert len(asked) == len(set(asked))


def test_two_jobs_do_not_write_into_one_folder(
    program: Program, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    with parts.locked(out):
        assert sentence(program(photos)).startswith(f"error: Another job writes into {out}")
    assert program(photos)[0] == 0


def test_ctrl_c_says_how_to_go_on(
    program: Program, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "score", stopped)
    status, _, said = program(photos)
    assert status == 130
    assert "same command again" in said
