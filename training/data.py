"""Labelled images: from a folder or a manifest to samples and splits."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from deepfake.errors import DataError
from deepfake.files import SUFFIXES, files_below

LABELS = ("real", "fake")  # index = class of the network's output
SPLITS = ("train", "val", "test")
FIELDS = ("path", "label", "source", "generator", "group", "split", "landmarks")


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        name: its path as the manifest or folder writes it.
        landmarks: x and y of eyes, nose and mouth's corners in pixels of a face crop, ten
            numbers as training.crop writes them; empty where they are not known.
    """

    path: Path
    name: str
    label: int
    source: str = "data"
    generator: str = ""
    group: str = ""
    split: str = ""
    landmarks: tuple[float, ...] = ()


def read_samples(data: Path, seed: int = 0, strict: bool = True) -> list[Sample]:
    """Read a data folder (``real/`` + ``fake/``, or with a ``manifest.csv``) or a manifest file.

    A manifest is a CSV with the columns ``path`` (relative to the CSV) and ``label`` (real or
    fake), and optionally ``source``, ``generator``, ``group``, ``split`` and ``landmarks``. An
    image without a group is a group of its own. Where splits are missing, groups are dealt to
    train/val/test 80/10/10.

    Raises:
        DataError: nothing there, a bad row, and, where ``strict``, one class only or a group in
            two splits.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist; give a data folder or a manifest CSV.")
    manifest = data / "manifest.csv" if data.is_dir() else data
    if not manifest.is_file() and (data / "journal.jsonl").is_file():
        # As a folder of photos they would have other groups, and so other splits.
        raise DataError(f"{data} holds crops that are not all made yet; run training.crop again.")
    samples = _from_manifest(manifest) if manifest.is_file() else _from_folders(data)
    samples = [s if s.group else replace(s, group=s.name) for s in samples]
    samples = assign_splits(samples, seed)
    if strict or not samples:
        check(samples, str(data))
    return samples


def _from_folders(data: Path) -> list[Sample]:
    samples, others = [], Counter[str]()
    for label, name in enumerate(LABELS):
        folder = data / name
        if not folder.is_dir():
            raise DataError(f"{data} needs a folder {name}/ with images, or a manifest.csv.")
        for path in sorted(files_below(folder)):
            if path.suffix.lower() in SUFFIXES:
                samples.append(Sample(path, _name(path, data), label))
            elif not path.name.startswith("."):
                others[path.suffix or "no suffix"] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        print(f"warning: files in {data} that are passed over: {kinds}", file=sys.stderr)
    return samples


def _name(path: Path, data: Path) -> str:
    name = str(path.relative_to(data))
    try:
        name.encode()
    except UnicodeEncodeError as error:  # Linux allows any bytes in a name, a manifest only text
        raise DataError(f"The name {os.fsencode(name)!r} is not UTF-8; rename the file.") from error
    return name


def _from_manifest(manifest: Path) -> list[Sample]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{manifest} lacks the column(s) {', '.join(sorted(missing))}.")
            return [_sample(manifest, n, row) for n, row in enumerate(reader, start=2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest} is not a CSV file in UTF-8.") from error


def _sample(manifest: Path, line: int, row: dict[str, str]) -> Sample:
    label, split = (row["label"] or "").strip().lower(), (row.get("split") or "").strip().lower()
    if label not in LABELS:
        raise DataError(f"{manifest}, line {line}: label is {label!r}, not real or fake.")
    if not row["path"]:
        raise DataError(f"{manifest}, line {line}: the path is missing.")
    if split and split not in SPLITS:
        raise DataError(f"{manifest}, line {line}: split is {split!r}, not train, val or test.")
    return Sample(
        path=manifest.parent / row["path"],
        name=row["path"],
        label=LABELS.index(label),
        source=row.get("source") or "data",
        generator=row.get("generator") or "",
        group=row.get("group") or "",
        split=split,
        landmarks=_landmarks(manifest, line, row.get("landmarks") or ""),
    )


def _landmarks(manifest: Path, line: int, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(v) for v in text.split())
    except ValueError:
        values = (math.nan,)
    if len(values) not in (0, 10) or not all(math.isfinite(v) for v in values):
        raise DataError(f"{manifest}, line {line}: landmarks are not ten numbers.")
    return values


def read_image(path: Path) -> Image.Image:
    """A crop as an RGB image; DataError when it cannot be read."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise DataError(f"{path} cannot be read as an image.") from error


def stamp(photo: Path) -> list[int]:
    """Size in bytes and time in seconds, which tell another photo under an old name; [] of none."""
    try:
        found = photo.stat()
    except OSError:
        return []
    return [found.st_size, int(found.st_mtime)]


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 of what a run is made of: all that is known of its samples, and their pictures.

    A file's size tells another picture of an old name, but not of crops as BMP, which are all of
    one size; so a piece out of its middle counts too. Its time does not: a copy is the same data.
    """
    digest = hashlib.sha256()
    for s in samples:
        size, middle = _size_and_middle(s.path)
        digest.update(f"{replace(s, path=Path(s.name))} {size} ".encode() + middle)
    return digest.hexdigest()


def _size_and_middle(path: Path, length: int = 4096) -> tuple[int, bytes]:
    """How long a file is, and so many bytes from its middle; of none 0 and nothing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, (size - length) // 2))
            return size, file.read(length)
    except OSError:
        return 0, b""


def assign_splits(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give train/val/test (80/10/10) to samples without a split, whole groups at a time.

    The choice is a hash of the group and the seed, so it stays the same when data is added. A
    group of which some samples already have a split follows them.
    """
    known = {s.group: s.split for s in samples if s.split}

    def split_of(group: str) -> str:
        digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return "train" if share < 0.8 else "val" if share < 0.9 else "test"

    return [
        s if s.split else replace(s, split=known.get(s.group) or split_of(s.group)) for s in samples
    ]


def check(samples: Sequence[Sample], where: str) -> None:
    """Raise DataError unless both classes are there and no group crosses a split."""
    counts = Counter(s.label for s in samples)
    if not counts:
        raise DataError(f"{where} holds no images.")
    if len(counts) < 2:
        only = LABELS[next(iter(counts))]
        raise DataError(f"{where} holds only {only} images; both real and fake are needed.")
    if torn := torn_groups(samples):
        raise DataError(
            f"{len(torn)} group(s) cross splits in {where}, {torn[0]!r} for one: near-duplicates "
            "in two splits make every figure too good."
        )


def torn_groups(samples: Iterable[Sample]) -> list[str]:
    """The groups that have images in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for s in samples:
        splits[s.group].add(s.split)
    return sorted(g for g, found in splits.items() if len(found) > 1)


def of_split(samples: Iterable[Sample], split: str) -> list[Sample]:
    """The samples of one split; DataError unless it holds both classes."""
    chosen = [s for s in samples if s.split == split]
    missing = [name for label, name in enumerate(LABELS) if label not in {s.label for s in chosen}]
    if missing:
        raise DataError(
            f"The {split} split holds no {' and no '.join(missing)} images "
            f"({len(chosen)} images in all); add data or name splits in a manifest."
        )
    return chosen


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a manifest whose paths are their names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for s in samples:
            landmarks = " ".join(f"{v:g}" for v in s.landmarks)
            row = [s.name, LABELS[s.label], s.source, s.generator, s.group, s.split, landmarks]
            writer.writerow(row)
