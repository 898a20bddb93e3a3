"""Which photos `deepfake-score` finds, and their bytes; without Ray."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepfake.errors import DataError
from deepfake.images import MAX_BYTES
from scoring.sources import paths_of
from tests.conftest import ASTRONAUT, FAKES, sentence
from tests.unit.scorer import Program, contents, rows_in


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


def test_photos_below_a_folder_that_cannot_be_read_are_not_passed_over(
    program: Program, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir = photos / "closed", os.scandir
    closed.mkdir()

    def refusing(place: str) -> Iterator[os.DirEntry[str]]:
        if place == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything
    assert sentence(program(photos)) == f"error: Permission denied: {closed}"
