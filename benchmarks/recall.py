"""How many faces are still found on the reduced copy that the detector looks at.

Makes photos of 12 megapixels with one to eight faces each, from 1.25 % to 40 % of the longer side,
turned by up to 25 degrees, some dark, and compares with facenet_pytorch's MTCNN on all pixels, as
the reference pipeline has it; people are those in whose own photo the latter finds one face. It
says what ``DETECT_SIDES`` and ``MIN_FACE`` of src/deepfake/faces.py and ``THRESHOLDS`` of
src/deepfake/mtcnn.py cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from facenet_pytorch import MTCNN
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm

from benchmarks.scenes import FIXTURES
from deepfake.faces import DETECT_SIDES, MIN_SCORE, Face, FaceDetector
from training.cli import check_numbers, parser, run
from training.data import LABELS, read_samples

SIZE = (4000, 3000)
# Bounds of the bands: width of the face / longer side.
SHARES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)
SIDES = (500, 640, 800, 1000, 1280, 1600, 2000)
SMALLEST = (15, 30, 40)  # pixels on the copy
FIRST = 0.6  # threshold of MTCNN's first network as it comes
TURN = 25.0  # degrees, either way
Box = tuple[float, float, float, float]
Portrait = tuple[Image.Image, Box]
Detector = Callable[[Image.Image], list[Face]]


def portraits(paths: list[Path], detector: Detector) -> list[Portrait]:
    """The photos in which exactly one face is found, and where."""
    kept = []
    for path in paths:
        photo = Image.open(path).convert("RGB")
        faces = detector(photo)
        if len(faces) == 1:
            kept.append((photo, faces[0].box))
    return kept


def scene(people: list[Portrait], rng: Generator) -> tuple[Image.Image, list[Box]]:
    """A photo and its faces: portraits of all sizes before a blurred background, with grain."""
    backdrop, _ = people[rng.integers(len(people))]
    photo = backdrop.resize(SIZE).filter(ImageFilter.GaussianBlur(120))
    taken: list[Box] = []
    boxes: list[Box] = []
    for _ in range(int(rng.integers(1, 9))):
        person, (left, top, right, bottom) = people[rng.integers(len(people))]
        share = math.exp(rng.uniform(math.log(SHARES[0]), math.log(SHARES[-1])))
        scale = share * max(SIZE) / (right - left)
        width, height = round(person.width * scale), round(person.height * scale)
        x, y = (
            int(rng.integers(max(1, s - v))) for s, v in zip(SIZE, (width, height), strict=True)
        )
        place = (x, y, x + width, y + height)
        if width > SIZE[0] or height > SIZE[1] or any(overlap(place, other) for other in taken):
            continue
        taken.append(place)
        shown = person.resize((width, height), Image.Resampling.BICUBIC)
        shown = ImageEnhance.Brightness(shown).enhance(math.exp(rng.uniform(-1.2, 0.2)))
        turn = rng.uniform(-TURN, TURN)
        about = (scale * (left + right) / 2, scale * (top + bottom) / 2)
        whole = Image.new("L", shown.size, 255)
        shown, whole = (
            i.rotate(turn, Image.Resampling.BICUBIC, center=about) for i in (shown, whole)
        )
        photo.paste(shown, (x, y), whole)
        boxes.append((x + scale * left, y + scale * top, x + scale * right, y + scale * bottom))
    grain = rng.normal(0, 4, (SIZE[1], SIZE[0], 1)).astype(np.float32)
    pixels = np.clip(np.asarray(photo, dtype=np.float32) + grain, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8)), boxes


def original() -> Detector:
    """facenet_pytorch's MTCNN as it comes."""
    network = MTCNN(keep_all=True, device="cpu")

    def detect(photo: Image.Image) -> list[Face]:
        boxes, scores = network.detect(photo)
        found = [] if boxes is None else zip(boxes, scores, strict=True)
        return [Face(tuple(box), score) for box, score in found if score >= MIN_SCORE]

    return detect


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return inside / (areas - inside)


def hits(boxes: list[Box], found: list[Face]) -> Iterator[tuple[int, bool]]:
    """For each face that is there: its band of sizes, and whether it was found."""
    for box in boxes:
        share = (box[2] - box[0]) / max(SIZE)
        band = min(int(np.searchsorted(SHARES, share, side="right")) - 1, len(SHARES) - 2)
        yield band, any(overlap(box, face.box) >= 0.5 for face in found)


def markdown(found: dict[str, list[tuple[int, bool]]], photos: int) -> str:
    """Recall of each detector, by the size of the face."""
    head = [f"{a:.3g} to {b:.3g} %" for a, b in pairwise(100 * s for s in SHARES)]
    lines = [
        "# Faces that the detector still finds on its reduced copy",
        "",
        "Written by `python -m benchmarks.recall`. Columns: width of the face / longer side.",
        "",
        f"| faces found, {photos} photos of {SIZE[0]} x {SIZE[1]} | all | {' | '.join(head)} |",
        "|---" * (len(head) + 2) + "|",
    ]
    for name, rows in found.items():
        groups = [[hit for _, hit in rows]]
        groups += [[hit for band, hit in rows if band == i] for i in range(len(head))]
        cells = [f"{sum(g)} of {len(g)}" for g in groups]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--photos", type=int, default=60, help="how many are made")
    args.add_argument("--data", type=Path, help="take the people from here; default: the fixtures")
    args.add_argument("--limit", type=int, default=200, help="so many people of --data at most")
    args.add_argument("--out", type=Path, default=Path("benchmarks/RECALL.md"))
    opt = args.parse_args()
    check_numbers(opt, above_zero=("photos", "limit"))
    if opt.data:
        reals = [s.path for s in read_samples(opt.data) if LABELS[s.label] == "real"]
        paths = [reals[i] for i in np.random.default_rng(0).permutation(len(reals))[: opt.limit]]
    else:
        paths = sorted(FIXTURES.glob("*.jpg"))
    reference = original()
    people = portraits(paths, reference)
    first, second = DETECT_SIDES
    served = f"longer side {first}, {second} where that shows none"
    detectors: dict[str, Detector] = {
        f"longer side {side}": FaceDetector(sides=(side, side)) for side in SIDES
    }
    detectors[f"{served} (as served)"] = FaceDetector()
    for side in SMALLEST:
        other = FaceDetector()
        other.network.min_face = side
        detectors[f"as served, faces from {side} pixels"] = other
    easier = FaceDetector()
    easier.network.thresholds = (FIRST, *easier.network.thresholds[1:])
    detectors[f"as served, first threshold {FIRST}"] = easier
    detectors["all pixels (the reference)"] = reference
    found: dict[str, list[tuple[int, bool]]] = {name: [] for name in detectors}
    rng = np.random.default_rng(0)
    for _ in tqdm(range(opt.photos), unit="photo"):
        photo, boxes = scene(people, rng)
        for name, detector in detectors.items():
            found[name] += hits(boxes, detector(photo))
    text = markdown(found, opt.photos)
    opt.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    run(main)
