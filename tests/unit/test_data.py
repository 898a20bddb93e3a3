"""Folders and manifests of labelled images: what is read and refused, and known again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deepfake.errors import DataError
from training.data import (
    Sample,
    fingerprint,
    read_samples,
    write_manifest,
)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def folder(path: Path, real: Sequence[str], fake: Sequence[str]) -> Path:
    for label, names in (("real", real), ("fake", fake)):
        for name in names:
            (path / label / name).parent.mkdir(parents=True, exist_ok=True)
            (path / label / name).touch()
    return path


def refusal(data: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_samples(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_linked_folders_are_looked_into_once(tmp_path: Path) -> None:
    folder(tmp_path / "data", ["a.png"], ["b.png"])
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "c.jfif").touch()
    (tmp_path / "data" / "real" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "data" / "real" / "round").symlink_to(tmp_path / "data" / "real")
    names = [s.name for s in read_samples(tmp_path / "data")]
    assert names == ["real/a.png", "real/linked/c.jfif", "fake/b.png"]


def test_files_that_are_passed_over_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_samples(folder(tmp_path, ["a.png", ".hidden"], ["b.png"]))
    assert capsys.readouterr().err == ""
    read_samples(folder(tmp_path, ["a.heic", "b.heic"], ["text"]))
    assert "passed over: 2 .heic, 1 no suffix" in capsys.readouterr().err


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_made_of_it(tmp_path: Path) -> None:
    folder(tmp_path, ["a.png"], ["b.png"])
    name = os.fsencode(tmp_path) + b"/real/M\xfcller.jpg"
    try:
        open(name, "wb").close()
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    assert "M\\xfcller.jpg" in refusal(tmp_path)


def test_crops_that_are_not_all_made_are_no_data(tmp_path: Path) -> None:
    """Their names are not the photos': dealt by them, a test photo may be trained on."""
    crops = folder(tmp_path, ["a.png.png"], ["b.png.png"])
    (crops / "journal.jsonl").touch()
    assert "training.crop" in refusal(crops)
    write(crops / "manifest.csv", "path,label", "real/a.png.png,real", "fake/b.png.png,fake")
    assert len(read_samples(crops)) == 2


def test_a_folder_gives_its_images_with_their_labels(tmp_path: Path) -> None:
    folder(tmp_path, ["b.JPG", "a.png", "sub/c.webp", "notes.txt"], ["d.jpeg", ".DS_Store"])
    samples = read_samples(tmp_path)
    assert [(s.name, s.label) for s in samples] == [
        ("real/a.png", 0),
        ("real/b.JPG", 0),
        ("real/sub/c.webp", 0),
        ("fake/d.jpeg", 1),
    ]
    assert samples[2].path == tmp_path / "real" / "sub" / "c.webp"
    assert all(s.split in ("train", "val", "test") for s in samples)
    assert len({s.group for s in samples}) == 4


def test_a_manifest_gives_all_it_says(tmp_path: Path) -> None:
    write(
        tmp_path / "manifest.csv",
        "label,path,split,group,generator,source,remark",
        'fake,"x,y.jpg",val,g1,gan,web,comma',
        "real,sub/b.jpg,test,g2,,cam,",
    )
    assert read_samples(tmp_path) == [
        Sample(tmp_path / "x,y.jpg", "x,y.jpg", 1, "web", "gan", "g1", "val"),
        Sample(tmp_path / "sub" / "b.jpg", "sub/b.jpg", 0, "cam", "", "g2", "test"),
    ]
    assert read_samples(tmp_path / "manifest.csv") == read_samples(tmp_path)


def test_a_manifest_needs_only_path_and_label(tmp_path: Path) -> None:
    manifest = write(tmp_path / "some.csv", "path,label", "a.jpg, Real ", "/photos/b.jpg,FAKE")
    real, fake = read_samples(manifest)
    assert (real.label, fake.label) == (0, 1)
    assert (real.path, fake.path) == (tmp_path / "a.jpg", Path("/photos/b.jpg"))
    assert (real.source, fake.source) == ("data", "data")
    assert (real.group, fake.group) == ("a.jpg", "/photos/b.jpg")
    assert {real.split, fake.split} <= {"train", "val", "test"}


def test_a_manifest_in_a_folder_counts_more_than_its_subfolders(tmp_path: Path) -> None:
    folder(tmp_path, ["a.jpg"], ["b.jpg"])
    write(tmp_path / "manifest.csv", "path,label", "x.jpg,real", "y.jpg,fake")
    assert [s.name for s in read_samples(tmp_path)] == ["x.jpg", "y.jpg"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = [
        Sample(tmp_path / "ü, b.jpg", "ü, b.jpg", 0, "cam", "", "g1", "train"),
        Sample(tmp_path / "c.jpg", "c.jpg", 1, "web", "gan", "g2", "val"),
    ]
    write_manifest(tmp_path / "manifest.csv", samples)
    assert read_samples(tmp_path) == samples


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'} does not exist" in refusal(tmp_path / "none")
    assert "real/" in refusal(tmp_path)
    (tmp_path / "real").mkdir()
    assert "fake/" in refusal(tmp_path)
    (tmp_path / "fake").mkdir()
    assert "holds no images" in refusal(tmp_path)


@pytest.mark.parametrize("label", ["real", "fake"])
def test_one_class_is_not_enough(tmp_path: Path, label: str) -> None:
    manifest = write(tmp_path / "m.csv", "path,label", f"a.jpg,{label}", f"b.jpg,{label}")
    assert f"only {label} images" in refusal(manifest)
    folder(tmp_path, *((["a.jpg"], []) if label == "real" else ([], ["a.jpg"])))
    for name in ("real", "fake"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert f"only {label} images" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("b.jpg,fale,", "line 3: label is 'fale'"),
        ("b.jpg,,", "line 3: label is ''"),
        ("b.jpg", "line 3: label is ''"),
        ("b.jpg,fake,training", "line 3: split is 'training'"),
        (",fake,", "line 3: the path is missing"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    manifest = write(tmp_path / "m.csv", "path,label,split", "a.jpg,real,", row)
    message = refusal(manifest)
    assert str(manifest) in message
    assert reason in message


def test_a_row_that_ends_before_its_path_is_named(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", "label,path", "real,a.jpg", "fake")
    assert "line 3: the path is missing" in refusal(manifest)


def test_a_manifest_may_be_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """Which puts a byte order mark before the first column's name."""
    (tmp_path / "manifest.csv").write_text("path,label\na.jpg,real\nb.jpg,fake\n", "utf-8-sig")
    assert [s.name for s in read_samples(tmp_path)] == ["a.jpg", "b.jpg"]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    assert "label" in refusal(write(tmp_path / "a.csv", "path,class", "a.jpg,real"))
    assert "label, path" in refusal(write(tmp_path / "b.csv", "file", "a.jpg"))
    (tmp_path / "empty.csv").touch()
    assert "label, path" in refusal(tmp_path / "empty.csv")


def test_a_file_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    assert "not a CSV" in refusal(tmp_path / "photo.jpg")


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "m.csv",
        "path,label,group,split",
        "a.jpg,real,person 1,train",
        "b.jpg,fake,person 2,train",
        "c.jpg,real,person 1,test",
    )
    assert "1 group(s) cross splits" in refusal(manifest)
    assert "'person 1'" in refusal(manifest)


@pytest.mark.parametrize("kind", ["bmp", "png"])
def test_a_fingerprint_tells_another_picture_of_the_same_name(tmp_path: Path, kind: str) -> None:
    """As BMP two crops are of one size; what is copied elsewhere is the same data."""
    path, copy = tmp_path / f"a.{kind}", tmp_path / f"copy.{kind}"
    Image.new("RGB", (64, 64), "red").save(path)
    shutil.copyfile(path, copy)
    os.utime(copy, (0, 0))
    sample = Sample(path=path, name="a", label=0, source="s", group="g", split="train")
    first = fingerprint([sample])
    assert fingerprint([replace(sample, path=copy)]) == first
    assert fingerprint([replace(sample, landmarks=(1.0, 2.0))]) != first
    assert fingerprint([replace(sample, group="another")]) != first
    Image.new("RGB", (64, 64), "blue").save(path)
    assert fingerprint([sample]) != first
    path.unlink()
    assert fingerprint([sample]) != first
