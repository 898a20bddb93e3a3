"""Labelled images: from a folder or a manifest to samples, splits, folds and balanced epochs."""

from __future__ import annotations

import csv
import hashlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from deepfake.errors import DataError

LABELS = ("real", "fake")  # index = class of the network's output
SPLITS = ("train", "val", "test")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
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
    samples = _from_manifest(manifest) if manifest.is_file() else _from_folders(data)
    samples = [s if s.group else replace(s, group=s.name) for s in samples]
    samples = assign_splits(samples, seed)
    if strict or not samples:
        check(samples, str(data))
    return samples


def _from_folders(data: Path) -> list[Sample]:
    samples = []
    for label, name in enumerate(LABELS):
        folder = data / name
        if not folder.is_dir():
            raise DataError(f"{data} needs a folder {name}/ with images, or a manifest.csv.")
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            samples.append(Sample(path, str(path.relative_to(data)), label))
    return samples


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


def folds(
    samples: Sequence[Sample], n_folds: int, seed: int
) -> list[tuple[list[Sample], list[Sample]]]:
    """Stratified group k-fold: (train, val) samples per fold, whole groups at a time.

    Strata are label x source, so that every fold validates on every source, if it is big enough.

    Raises:
        DataError: some fold would have images of one class only.
    """
    strata = [f"{s.label}/{s.source}" for s in samples]
    groups = [s.group for s in samples]
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for label, name in enumerate(LABELS):
        found = len({s.group for s in samples if s.label == label})
        if found < n_folds:
            raise DataError(f"{found} group(s) of {name} images cannot make {n_folds} folds.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a source with fewer images than folds
        dealt = list(splitter.split(np.zeros(len(strata)), strata, groups))
    parts = [([samples[i] for i in train], [samples[i] for i in val]) for train, val in dealt]
    if any(len({s.label for s in part}) < 2 for pair in parts for part in pair):
        raise DataError(f"{n_folds} folds would leave one with a single class; take fewer.")
    return parts


def balanced(samples: Sequence[Sample], seed: int, evenness: float = 0.0) -> list[Sample]:
    """As many reals as fakes: as many of each as the smaller class has.

    Called with another seed each epoch, so that in the end all images of the larger class are
    used. The order is shuffled.

    Args:
        evenness: how far the sources of a class share alike: 0 as they are, 1 the same share for
            each; between, shares go with size to the power of 1 - evenness. Images of small
            sources are then repeated within an epoch, those of large ones left out.
    """
    rng = np.random.default_rng(seed)
    by_label = [[s for s in samples if s.label == label] for label in range(len(LABELS))]
    size = min(len(group) for group in by_label)
    drawn = []
    for group in by_label:
        cells = [
            [s for s in group if s.source == name] for name in sorted({s.source for s in group})
        ]
        weights = np.array([len(cell) for cell in cells], dtype=float) ** (1 - evenness)
        # Where sources keep their own sizes, all of the larger class is drawn from together.
        cells, shares = (cells, weights / weights.sum()) if evenness else ([group], np.ones(1))
        # Largest remainders: rounding each by itself could leave the classes uneven.
        counts = np.floor(size * shares + 1e-9).astype(int)
        most_left = np.argsort(counts - size * shares, kind="stable")
        counts[most_left[: size - counts.sum()]] += 1
        for cell, wanted in zip(cells, counts.tolist(), strict=True):
            order = [i for _ in range(-(-wanted // len(cell))) for i in rng.permutation(len(cell))]
            drawn += [cell[i] for i in order[:wanted]]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def limited(samples: list[Sample], limit: int, seed: int) -> list[Sample]:
    """A random choice of ``limit`` samples: for rehearsals."""
    if not limit or limit >= len(samples):
        return samples
    order = np.random.default_rng(seed).permutation(len(samples))[:limit]
    return [samples[i] for i in order]


def limited_per_cell(samples: list[Sample], limit: int, seed: int) -> list[Sample]:
    """A random choice of at most ``limit`` samples of each source and class; 0: all."""
    if not limit:
        return samples
    rng, kept, counts = np.random.default_rng(seed), [], Counter[tuple[str, int]]()
    for i in rng.permutation(len(samples)):
        cell = (samples[i].source, samples[i].label)
        if counts[cell] < limit:
            counts[cell] += 1
            kept.append(int(i))
    return [samples[i] for i in sorted(kept)]


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a manifest whose paths are their names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for s in samples:
            landmarks = " ".join(f"{v:g}" for v in s.landmarks)
            row = [s.name, LABELS[s.label], s.source, s.generator, s.group, s.split, landmarks]
            writer.writerow(row)
