"""What `deepfake-score` makes of what lies in --out and of workers that die; without Ray."""

from __future__ import annotations

import argparse
import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepfake.folders import locked
from scoring import parts, score
from tests.conftest import ASTRONAUT, FAKES, ROOT, sentence
from tests.unit.scorer import NAME, Program, contents, rows_in


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


@pytest.mark.parametrize(
    ("source", "more", "expected"),
    [
        ("nothing", (), "does not exist"),
        ("empty", (), "holds no photo"),
        (ASTRONAUT.parent, (), "another checkpoint"),
        (ASTRONAUT.parent, ("--point", "wild"), "no operating point 'wild'"),
        (ASTRONAUT.parent, ("--workers", 0), "--workers is 0"),
        (ASTRONAUT.parent, ("--cores", 2, "--workers", 3), "more than 2 cores"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_sentence(
    program: Program,
    tmp_path: Path,
    source: str | Path,
    more: tuple[object, ...],
    expected: str,
) -> None:
    for name in ("empty", "scores"):
        (tmp_path / name).mkdir()
    if expected == "another checkpoint":
        other = pa.Table.from_pylist([{"path": "a", "checkpoint": "b"}], schema=parts.SCHEMA)
        pq.write_table(other, tmp_path / "scores" / "1.parquet")
    before = contents(tmp_path / "scores")
    assert expected in sentence(program(tmp_path / source, *more))
    assert contents(tmp_path / "scores") == before


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
    with locked(out):
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
