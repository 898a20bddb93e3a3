"""Look for shortcuts in a data set: what a detector could learn instead of forgery.

Three checks, and a non-zero exit when one of them finds something: near-duplicates of an image in
another split (difference hash and its mirror), groups that cross splits, and a probe that tries to
tell real from fake by file size, dimensions, JPEG tables and mean colour alone. The probe is
trained on the train split and scored on validation, per source: an AUC well above 0.5 means that
a figure on that source is partly a figure of cameras and files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from deepfake.cpus import usable
from training.cli import check_numbers, parser, run
from training.data import Sample, read_samples, torn_groups

ONE_CLASS = "sources of one class, together"
CHUNK = 64  # images that a process is given at once
HASH_SIDE = 16  # 256 bits: faces in one pose are alike in 64
FEATURES = ("file_bytes", "width", "height", "bytes_per_pixel", "jpeg_luma", "jpeg_chroma",
            "red", "green", "blue")  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """What can be said about an image without looking at its face.

    Attributes:
        values: ``FEATURES``, NaN where there is none, such as JPEG tables of a PNG.
        hashes: difference hash of the image and of its mirror image, 256 bits each.
    """

    values: tuple[float, ...]
    hashes: tuple[bytes, bytes]


def traits(path: Path) -> Traits | None:
    """The traits of an image file; None when it cannot be read."""
    try:
        with Image.open(path) as image:
            tables: dict[int, Sequence[int]] = getattr(image, "quantization", None) or {}
            size, small = image.size, image.convert("RGB")
    except MemoryError:
        raise
    except Exception:  # Pillow's decoders raise many types on damaged files
        return None
    bytes_, (width, height) = path.stat().st_size, size
    values = (
        float(bytes_),
        float(width),
        float(height),
        bytes_ / (width * height),
        *(float(np.mean(tables[i])) if i in tables else float("nan") for i in (0, 1)),
        *np.asarray(small.resize((16, 16), Image.Resampling.BOX)).mean(axis=(0, 1)).tolist(),
    )
    mirrored = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first, second = (np.packbits(imagehash.dhash(i, HASH_SIDE).hash) for i in (small, mirrored))
    return Traits(values, (first.tobytes(), second.tobytes()))


def all_traits(samples: Sequence[Sample], workers: int) -> list[Traits | None]:
    """The traits of every sample's image, in order."""
    paths = [s.path for s in samples]
    workers = min(workers, -(-len(paths) // CHUNK))
    with ExitStack() as stack:
        found: Iterable[Traits | None] = map(traits, paths)
        if workers > 1:  # a process of its own would take longer to start than many photos
            pool = ProcessPoolExecutor(workers, get_context("spawn"))
            found = stack.enter_context(pool).map(traits, paths, chunksize=CHUNK)
        return list(tqdm(found, total=len(paths), unit="img", desc="audit"))


def near_duplicates(
    samples: Sequence[Sample], found: Sequence[Traits | None], distance: int
) -> list[tuple[str, str, int]]:
    """Pairs of images in different splits whose hashes differ in at most ``distance`` bits."""
    known = [(s, t) for s, t in zip(samples, found, strict=True) if t]
    splits, order = np.array([s.split for s, _ in known]), np.arange(len(known))
    plain, mirrored = (_words([t.hashes[i] for _, t in known]) for i in (0, 1))
    names = [s.name for s, _ in known]
    held_out = np.flatnonzero(splits != "train")
    pairs = []
    for i in tqdm(held_out, unit="img", desc="compare", mininterval=1):
        # Every pair once: two splits that are held out meet at the later image only.
        others = np.flatnonzero((splits != splits[i]) & ((splits == "train") | (order < i)))
        if not len(others):
            continue
        some = plain[others]
        bits = np.minimum(_differing(some, plain[i]), _differing(some, mirrored[i]))
        for j in np.flatnonzero(bits <= distance):
            pairs.append((names[i], names[others[j]], int(bits[j])))
    return sorted(pairs, key=lambda pair: pair[2])


def _words(hashes: Iterable[bytes]) -> NDArray[np.uint64]:
    return np.array([np.frombuffer(h, dtype=np.uint64) for h in hashes])


def _differing(some: NDArray[np.uint64], one: NDArray[np.uint64]) -> NDArray[np.int64]:
    bits: NDArray[np.int64] = np.bitwise_count(some ^ one).sum(axis=1).astype(np.int64)
    return bits


def probe(samples: Sequence[Sample], found: Sequence[Traits | None]) -> dict[str, dict[str, float]]:
    """Per source, validation AUC of telling the classes by all ``FEATURES``, and by each alone.

    Sources of one class are taken together, as ``ONE_CLASS``: they are told apart in training too.
    An AUC below 0.5 of a single feature is turned round: its direction is chosen on train.
    """
    cells: dict[str, dict[str, list[tuple[tuple[float, ...], int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    classes: dict[str, set[int]] = defaultdict(set)
    for s in samples:
        classes[s.source].add(s.label)
    for s, t in zip(samples, found, strict=True):
        if t and s.split in ("train", "val"):
            name = s.source if len(classes[s.source]) == 2 else ONE_CLASS
            cells[name][s.split].append((t.values, s.label))
    result = {}
    for source, split in sorted(cells.items()):
        if any(len({label for _, label in split[name]}) < 2 for name in ("train", "val")):
            continue  # one class only: nothing to tell apart
        (x, y), (vx, vy) = (_table(split[name]) for name in ("train", "val"))
        model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x, y)
        scores = {"all": float(roc_auc_score(vy, model.predict_proba(vx)[:, 1]))}
        for i, name in enumerate(FEATURES):
            if np.isnan(x[:, i]).any() or np.isnan(vx[:, i]).any():
                continue
            auc = float(roc_auc_score(vy, vx[:, i]))
            scores[name] = auc if roc_auc_score(y, x[:, i]) >= 0.5 else 1 - auc
        result[source] = scores
    return result


def _table(rows: list[tuple[tuple[float, ...], int]]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array([v for v, _ in rows]), np.array([label for _, label in rows])


def findings(report: dict[str, Any], max_auc: float) -> list[str]:
    """What is wrong, one sentence each; empty when the data passes."""
    found = []
    if pairs := report["near_duplicates"]:
        first = f"{pairs[0][0]} and {pairs[0][1]}"
        found.append(f"{len(pairs)} pair(s) of near-duplicates cross splits, {first} for one.")
    if torn := report["groups_across_splits"]:
        found.append(f"{len(torn)} group(s) cross splits, {torn[0]!r} for one.")
    for source, scores in report["probe"].items():
        if scores["all"] > max_auc:
            best = max((k for k in scores if k != "all"), key=lambda k: scores[k], default="")
            alone = f", {best} alone {scores[best]:.3f}" if best else ""
            found.append(
                f"{source}: real and fake are told apart without looking at the face, AUC "
                f"{scores['all']:.3f} (limit {max_auc}){alone}."
            )
    return found


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--out", type=Path, default=Path("runs/audit.json"), help="the findings")
    args.add_argument("--distance", type=int, default=12, help="bits of 256 that duplicates differ")
    args.add_argument("--max-auc", type=float, default=0.6, help="of the probe, per source")
    args.add_argument("--workers", type=int, default=usable(), help="processes")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("max_auc", "workers"), not_negative=("distance",))
    samples = read_samples(opt.data, strict=False)
    found = all_traits(samples, opt.workers)
    report: dict[str, Any] = {
        "images": len(samples),
        "unreadable": [s.name for s, t in zip(samples, found, strict=True) if t is None],
        "near_duplicates": near_duplicates(samples, found, opt.distance),
        "groups_across_splits": torn_groups(samples),
        "probe": probe(samples, found),
    }
    problems = findings(report, opt.max_auc)
    report["findings"] = problems
    opt.out.parent.mkdir(parents=True, exist_ok=True)
    opt.out.write_text(json.dumps(report, indent=2), encoding="utf-8")
    for source, scores in report["probe"].items():
        print(f"probe, {source}: AUC {scores['all']:.3f}")
    for problem in problems:
        print(f"FOUND: {problem}")
    print(f"{len(samples)} images, {len(problems)} finding(s); {opt.out}")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
