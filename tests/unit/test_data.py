"""Folders and manifests of labelled images: what is read, refused, and dealt to splits."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake.errors import DataError
from training.data import (
    Sample,
    assign_splits,
    fingerprint,
    of_split,
    read_samples,
    write_manifest,
)
from training.sampling import balanced, folds, limited, paired


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


def made(count: int = 60, group_size: int = 1, sources: int = 1) -> list[Sample]:
    """Alternately real and fake groups, of sources in turn."""
    return [
        Sample(
            path=Path(f"{i}.jpg"),
            name=f"{i}.jpg",
            label=i // group_size % 2,
            source=f"s{i // group_size // 2 % sources}",
            group=f"g{i // group_size}",
        )
        for i in range(count)
    ]


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


def splits_of(samples: Sequence[Sample]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for s in samples:
        found[s.group].add(s.split)
    return found


def test_splits_are_dealt_to_whole_groups_in_about_80_10_10() -> None:
    samples = assign_splits(made(6000, group_size=3))
    assert all(len(splits) == 1 for splits in splits_of(samples).values())
    shares = Counter(s.split for s in samples)
    assert shares["train"] / 6000 == pytest.approx(0.8, abs=0.03)
    assert shares["val"] / 6000 == pytest.approx(0.1, abs=0.03)
    assert shares["test"] / 6000 == pytest.approx(0.1, abs=0.03)


def test_splits_stay_when_data_is_added() -> None:
    few, many = assign_splits(made(50)), assign_splits(made(500)[::-1])
    assert {s.name: s.split for s in few}.items() <= {s.name: s.split for s in many}.items()


def test_another_seed_deals_other_splits() -> None:
    assert splits_of(assign_splits(made(), 0)) != splits_of(assign_splits(made(), 1))


def test_splits_that_are_given_are_kept_and_followed_by_their_group() -> None:
    given = [
        Sample(Path("a"), "a", 0, group=f"g{i}", split="test" if half else "")
        for i in range(20)
        for half in (0, 1)
    ]
    assert {s.split for s in assign_splits(given)} == {"test"}


def test_a_split_must_hold_both_classes() -> None:
    samples = [
        Sample(Path("a"), "a", 0, split="train"),
        Sample(Path("b"), "b", 1, split="train"),
        Sample(Path("c"), "c", 0, split="val"),
    ]
    assert of_split(samples, "train") == samples[:2]
    with pytest.raises(DataError, match="val split holds no fake images"):
        of_split(samples, "val")
    with pytest.raises(DataError, match="test split holds no real and no fake images"):
        of_split(samples, "test")


@pytest.mark.parametrize(("group_size", "sources"), [(1, 1), (4, 3)])
def test_folds_share_out_whole_groups_with_both_classes_in_each(
    group_size: int, sources: int
) -> None:
    samples = made(240, group_size, sources)
    found = folds(samples, 5, seed=0)
    assert len(found) == 5
    for train, val in found:
        assert not {s.group for s in train} & {s.group for s in val}
        assert sorted(s.name for s in train + val) == sorted(s.name for s in samples)
        assert {(s.label, s.source) for s in val} == {(s.label, s.source) for s in samples}
    assert Counter(s.name for _, val in found for s in val) == Counter(s.name for s in samples)


def test_folds_are_the_same_for_the_same_seed() -> None:
    assert folds(made(), 3, 0) == folds(made(), 3, 0)
    assert folds(made(), 3, 0) != folds(made(), 3, 1)


def test_folds_of_a_rare_source_are_made_without_a_warning() -> None:
    rare = [Sample(Path("r"), f"r{i}", i, "rare", group=f"r{i}") for i in (0, 1)]
    assert len(folds(made() + rare, 3, 0)) == 3


def test_too_few_groups_for_the_folds_are_refused() -> None:
    with pytest.raises(DataError, match="3 group"):
        folds(made(12, group_size=2), 4, 0)


def test_folds_that_would_hold_one_class_are_refused() -> None:
    """Two groups have a real image and two a fake one, but not so that they could be dealt."""
    groups = {"mixed": (0, 1), "real": (0,), "fake": (1,)}
    samples = [
        Sample(Path("a"), f"{group}-{label}", label, group=group)
        for group, labels in groups.items()
        for label in labels
    ]
    with pytest.raises(DataError, match="single class"):
        folds(samples, 2, seed=0)


def test_an_epoch_has_as_many_reals_as_fakes() -> None:
    samples = [Sample(Path("a"), str(i), int(i >= 10)) for i in range(50)]
    epoch = balanced(samples, seed=0)
    assert Counter(s.label for s in epoch) == {0: 10, 1: 10}
    assert len({s.name for s in epoch}) == 20  # nothing twice
    assert {s.name for s in epoch if s.label == 0} == {str(i) for i in range(10)}
    assert [s.label for s in epoch] != sorted(s.label for s in epoch)  # mixed


def test_many_small_sources_leave_the_classes_even() -> None:
    samples = [Sample(Path("a"), f"r{i}", 0, "one") for i in range(20)]
    samples += [Sample(Path("a"), f"f{i}", 1, f"s{i % 9}") for i in range(13)]
    for evenness in (0.5, 1.0):
        assert Counter(s.label for s in balanced(samples, 0, evenness)) == {0: 13, 1: 13}


def test_each_epoch_draws_anew_until_all_were_seen() -> None:
    samples = [Sample(Path("a"), str(i), int(i >= 10)) for i in range(50)]
    assert balanced(samples, seed=3) == balanced(samples, seed=3)
    assert balanced(samples, seed=3) != balanced(samples, seed=4)
    assert {s.name for seed in range(40) for s in balanced(samples, seed)} == {
        s.name for s in samples
    }


def test_an_epoch_can_give_every_source_the_same_share() -> None:
    """Of each class; a small source is repeated, and none of it is left out."""
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label, source, count in ((0, "a", 40), (0, "b", 20), (1, "a", 6), (1, "c", 90))
        for i in range(count)
    ]
    epoch = balanced(samples, seed=0, evenness=1.0)
    assert Counter((s.label, s.source) for s in epoch) == {
        cell: 30 for cell in ((0, "a"), (0, "b"), (1, "a"), (1, "c"))
    }
    times = Counter(s.name for s in epoch)
    assert {times[f"1-a-{i}"] for i in range(6)} == {5}
    assert {times[f"0-b-{i}"] for i in range(20)} == {1, 2}
    assert max(times[f"1-c-{i}"] for i in range(90)) == 1
    assert epoch == balanced(samples, seed=0, evenness=1.0)
    assert epoch != balanced(samples, seed=1, evenness=1.0)


def test_between_by_size_and_all_alike_shares_go_with_the_root_of_the_size() -> None:
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label in (0, 1)
        for source, count in (("large", 90), ("small", 10))
        for i in range(count)
    ]
    counts = Counter((s.label, s.source) for s in balanced(samples, seed=0, evenness=0.5))
    assert counts == {(0, "large"): 75, (0, "small"): 25, (1, "large"): 75, (1, "small"): 25}


def test_a_limit_takes_a_random_choice() -> None:
    samples = made(60)
    chosen = limited(samples, 20, seed=0)
    assert len({s.name for s in chosen}) == 20
    assert chosen == limited(samples, 20, seed=0)
    assert chosen != limited(samples, 20, seed=1)
    assert limited(samples, 0, seed=0) == limited(samples, 99, seed=0) == samples


def test_many_small_sources_can_be_folded_too() -> None:
    """None of them has as many images as there are folds."""
    for train, val in folds(made(80, sources=20), 5, seed=0):
        assert Counter(s.label for s in val) == {0: 8, 1: 8}
        assert not {s.group for s in train} & {s.group for s in val}


def test_pairs_are_a_fake_and_a_real_of_its_source_wherever_there_is_one() -> None:
    counts = ((0, "a", 4), (1, "a", 3), (0, "b", 1), (1, "b", 3), (1, "c", 2))
    samples = [
        Sample(Path("a"), f"{label}-{source}-{i}", label, source)
        for label, source, count in counts
        for i in range(count)
    ]
    mixed = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))]
    found = paired(mixed)
    assert sorted(s.name for s in found) == sorted(s.name for s in samples)  # nothing is lost
    assert [s.label for s in found] == [1, 0] * 5 + [1] * 3
    pairs = list(zip(found[:10:2], found[1:10:2], strict=True))
    assert Counter(fake.source for fake, real in pairs if fake.source == real.source) == {
        "a": 3,
        "b": 1,
    }


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
