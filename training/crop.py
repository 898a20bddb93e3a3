"""Cut the face out of every labelled photo, once, with the detector that serves.

Reads a data folder (real/ + fake/, or a manifest.csv), writes the crops with a manifest.csv
beside them, and lists in no_face.csv every image that gave none, with the reason. Of a photo
with several faces the largest is taken, since the label is the photo's. A run that was cut off
goes on where it was.
"""

from __future__ import annotations

import csv
import hashlib
import json
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from deepfake.cpus import usable
from deepfake.errors import DataError, DeepfakeError
from deepfake.faces import DETECT_SIDES, MARGIN, MIN_SCORE, FaceDetector, crop_square
from deepfake.folders import locked
from deepfake.images import decode
from training.cli import AGAIN, check_numbers, parser, run
from training.data import Sample, read_samples, stamp, write_manifest

FORMATS: dict[str, dict[str, Any]] = {"png": {"compress_level": 1}, "bmp": {}}
"""File formats of the crops, none of which loses anything, with options for Pillow."""

_detector: FaceDetector | None = None


def _start_worker() -> None:
    global _detector
    torch.set_num_threads(1)  # one process per core: more threads would only fight
    _detector = FaceDetector()


def crop_one(source: Path, target: Path, margin: float, max_side: int) -> dict[str, object]:
    """Crop the largest face of one file; the journal's record of it.

    Args:
        target: the crop's file; its suffix is one of ``FORMATS``.
    """
    assert _detector is not None
    try:
        # The files are the user's own: larger ones than the service takes are welcome.
        image = decode(source.read_bytes(), max_bytes=2**30, max_pixels=200_000_000)
        faces = _detector(image)
    except DeepfakeError as error:
        return {"error": str(error)}
    except (OSError, MemoryError) as error:  # not of the photo: the next run tries again
        return {"error": str(error) or "too large for the memory", "passing": True}
    if not faces:
        return {"error": "no face found"}
    face = faces[0]
    x, y, side = crop_square(image.size, face.box, margin)
    crop = image.crop((x, y, x + side, y + side))
    if side > max_side:
        crop = crop.resize((max_side, max_side), Image.Resampling.BILINEAR)
    scale = crop.width / side
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    form = target.suffix.removeprefix(".")
    crop.save(part, format=form, **FORMATS[form])
    part.replace(target)
    return {
        "box": [round(v, 1) for v in face.box],
        "score": round(face.score, 4),
        "landmarks": [round(v * scale, 1) for px, py in face.landmarks for v in (px - x, py - y)],
    }


def crop_name(name: str, form: str) -> str:
    """Where the crop of an image goes, below the output folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        name = f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{Path(name).name}"
    return f"{name}.{form}"


def crop_all(
    samples: list[Sample], out: Path, margin: float, max_side: int, workers: int, form: str
) -> None:
    """Crop what the journal in ``out`` does not hold yet, then write the two lists."""
    settings: dict[str, object] = {
        "margin": margin,
        "max_side": max_side,
        "detect_sides": list(DETECT_SIDES),
        "min_score": MIN_SCORE,
        "format": form,
    }
    journal = out / "journal.jsonl"
    stamps = {s.name: stamp(s.path) for s in samples}
    done = {
        name: record
        for name, record in _read_journal(journal, settings).items()
        if record.get("stamp", stamps.get(name)) == stamps.get(name) and "passing" not in record
    }
    todo = [s for s in samples if s.name not in done]
    targets = {s.name: out / crop_name(s.name, form) for s in todo}
    with journal.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"settings": settings}) + "\n")
        first = len(samples) - len(todo)
        # Closed at once where this is broken off, or what waits would be waited for.
        with (
            tqdm(total=len(samples), initial=first, unit="img", desc="crop") as bar,
            closing(_work(todo, targets, margin, max_side, workers)) as work,
        ):
            for name, record in work:
                done[name] = record = record | {"stamp": stamps[name]}
                file.write(json.dumps({"name": name, **record}) + "\n")
                file.flush()
                bar.update()
    _write_lists(samples, done, out, form)


def _work(
    todo: list[Sample], targets: dict[str, Path], margin: float, max_side: int, workers: int
) -> Generator[tuple[str, dict[str, object]]]:
    workers = min(workers, len(todo))
    if workers < 2:  # a process of its own would take longer to start than many photos
        if todo:
            _start_worker()
        for s in todo:
            yield s.name, crop_one(s.path, targets[s.name], margin, max_side)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        # Ctrl-C is for the program, which then gives its processes no more work. They are started
        # here, and inherit that they ignore it.
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
        jobs = {
            pool.submit(crop_one, s.path, targets[s.name], margin, max_side): s.name for s in todo
        }
        signal.signal(signal.SIGINT, usual)
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        except BrokenProcessPool as error:
            raise DataError(
                "A cropping process was ended from outside, perhaps for want of memory; "
                "run the same command again, with fewer --workers, to go on."
            ) from error
        finally:  # Ctrl-C, a full disk: what waits would still be done, and not written down
            pool.shutdown(cancel_futures=True)


def _read_journal(journal: Path, settings: dict[str, object]) -> dict[str, dict[str, object]]:
    if not journal.exists():
        return {}
    lines = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the line that a kill cut off
    found = {"format": "png", **lines[0].get("settings", {})} if lines else settings
    if found != settings:
        raise DataError(
            f"{journal.parent} holds crops made with other settings ({found}); "
            "give another --out or delete it."
        )
    return {line.pop("name"): line for line in lines[1:]}


def _write_lists(
    samples: list[Sample], done: dict[str, dict[str, object]], out: Path, form: str
) -> None:
    kept = [s for s in samples if "error" not in done[s.name]]
    crops = [
        replace(s, name=crop_name(s.name, form), landmarks=_landmarks(done[s.name])) for s in kept
    ]
    write_manifest(out / "manifest.csv", crops)
    lost = [s for s in samples if "error" in done[s.name]]
    with (out / "no_face.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "source", "split", "reason"])
        writer.writerows([s.name, s.source, s.split, done[s.name]["error"]] for s in lost)
    print(f"{len(kept)} crops in {out}; {len(lost)} images without one, see {out}/no_face.csv")


def _landmarks(record: dict[str, Any]) -> tuple[float, ...]:
    return tuple(record.get("landmarks", ()))


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--out", type=Path, default=Path("crops"), help="folder for the crops")
    args.add_argument("--margin", type=float, default=MARGIN, help="of the face box, every side")
    args.add_argument("--max-side", type=int, default=512, help="larger crops are reduced, pixels")
    args.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="png",
        help="of the crops; bmp takes more than twice the space and is read faster, for a GPU that "
        "waits for its crops",
    )
    args.add_argument("--workers", type=int, default=usable(), help="processes")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("max_side", "workers"), not_negative=("margin",))
    folder = opt.data if opt.data.is_dir() else opt.data.parent
    if folder.resolve() == opt.out.resolve():
        raise DataError(f"--out {opt.out} is the folder of the data; give one of its own.")
    samples = read_samples(opt.data)
    opt.out.mkdir(parents=True, exist_ok=True)
    with locked(opt.out):
        crop_all(samples, opt.out, opt.margin, opt.max_side, opt.workers, opt.format)
    return 0


if __name__ == "__main__":
    run(main, AGAIN)
