"""Pictures of what the detector gets wrong, of photos that may be shown.

Every photo is judged as it is and after every treatment of `training.treatments`; the real ones are
also forged in the ways of `training.forgeries`, and should then be called fake. Writes
failures.json and failures.png: how often each treatment led to a wrong label, and a picture of the
worst answers. Only the photos of one's own choice are shown; the default ones are public domain
or under the MIT licence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from deepfake.faces import crop_square
from deepfake.images import decode
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from training.cli import check_numbers, keep_memory, parser, run
from training.compositing import Points
from training.data import LABELS, Sample, read_samples
from training.forgeries import face_swap, part_swap, self_blend, up_sampled
from training.tables import to_json
from training.treatments import TREATMENTS

TILE = 168  # pixels
CAPTION = 52
COLUMNS = 5
PER_PHOTO = 2  # pictures of one photo at most, or the hardest one would fill the sheet


@dataclass(frozen=True)
class Case:
    """What was made of a photo, and what should be said of it.

    Attributes:
        photo: file name of the photo it was made of.
        made: the treatment or forgery.
        label: 0 real, 1 fake.
    """

    photo: str
    made: str
    label: int


@dataclass(frozen=True)
class Answer:
    """What was said of it: the verdict, or None without a face."""

    case: Case
    verdict: Verdict | None

    @property
    def wrong_by(self) -> float:
        """P(fake) of a real photo called fake, 1 - P(fake) of a fake called real; 0 if right."""
        if self.verdict is None:
            return 0.0
        face = self.verdict.worst
        if (face.label == "Fake") == (self.case.label == 1):
            return 0.0
        return abs(face.fake_probability - self.case.label)


def cases(
    pipeline: Pipeline, samples: list[Sample], seed: int
) -> Iterator[tuple[Case, Image.Image]]:
    """Every photo in every form, upright RGB; donors of swaps are the other photos, in turn."""
    images = [decode(s.path.read_bytes()) for s in samples]
    faces = [_face(pipeline, image) for image in images]
    for i, (s, image) in enumerate(zip(samples, images, strict=True)):
        for name, treat in TREATMENTS.items():
            yield Case(s.path.name, name, s.label), treat(image)
        face = faces[i]
        if s.label or face is None:
            continue
        (x, y), crop, points = face
        rng = np.random.default_rng((seed, i))
        forged = {"self-blend": self_blend(crop, points, rng)}
        forged["up-sampling"] = up_sampled(crop, points, rng)
        for what, swap in (("parts", part_swap), ("face", face_swap)):
            for donor, other in zip(samples, faces, strict=True):
                if other is not None and other is not face:
                    swapped = swap(crop, points, other[1], other[2], rng)
                    forged[f"{what} of {donor.path.stem}"] = swapped
        for name, part in forged.items():
            whole = image.copy()
            whole.paste(part, (x, y))
            yield Case(s.path.name, name, 1), whole


def _face(
    pipeline: Pipeline, image: Image.Image
) -> tuple[tuple[int, int], Image.Image, Points] | None:
    """Corner, square crop and landmarks in it, of the largest face; None without one."""
    found = pipeline.detector(image)
    if not found:
        return None
    face = found[0]
    x, y, side = crop_square(image.size, face.box, pipeline.checkpoint.crop_margin)
    return (x, y), image.crop((x, y, x + side, y + side)), np.array(face.landmarks) - (x, y)


def judged(pipeline: Pipeline, every: Iterable[tuple[Case, Image.Image]]) -> list[Answer]:
    """The answer about each case. Of the pictures only the faces' crops are kept."""
    answers = []
    for case, image in tqdm(every, unit="img", desc="judge"):
        (verdict,) = pipeline.predict([image])
        answers.append(Answer(case, verdict if isinstance(verdict, Verdict) else None))
    return answers


def summary(answers: list[Answer], shown: list[Answer]) -> dict[str, Any]:
    """Counts for each treatment and class, and what stands on the picture."""
    counts: dict[str, dict[str, int]] = {}
    for a in answers:
        forged = a.case.made not in TREATMENTS
        made = "forged" if forged else a.case.made
        row = counts.setdefault(
            made, {f"{label} {k}": 0 for label in LABELS for k in ("of", "wrong")}
        )
        row[f"{LABELS[a.case.label]} of"] += a.verdict is not None
        row[f"{LABELS[a.case.label]} wrong"] += a.wrong_by > 0
    return {
        "counts": counts,
        "shown": [
            {
                "photo": a.case.photo,
                "made": a.case.made,
                "label": LABELS[a.case.label],
                "p_fake": a.verdict.worst.fake_probability if a.verdict else None,
            }
            for a in shown
        ],
    }


def worst(answers: list[Answer], most: int) -> list[Answer]:
    """The answers that are furthest from the truth, of one photo at most ``PER_PHOTO``."""
    kept: list[Answer] = []
    for a in sorted(answers, key=lambda a: -a.wrong_by):
        alike = sum(a.case.photo == k.case.photo and a.case.label == k.case.label for k in kept)
        if a.wrong_by > 0 and len(kept) < most and alike < PER_PHOTO:
            kept.append(a)
    return kept


def picture(shown: list[Answer]) -> Image.Image:
    """The judged crops with what they are and what was said of them."""
    rows = max(1, -(-len(shown) // COLUMNS))
    width = min(COLUMNS, max(1, len(shown)))
    sheet = Image.new("RGB", (width * (TILE + 12), rows * (TILE + CAPTION + 12)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, a in enumerate(shown):
        if a.verdict is None:
            continue
        x, y = 6 + i % COLUMNS * (TILE + 12), 6 + i // COLUMNS * (TILE + CAPTION + 12)
        face = a.verdict.worst
        sheet.paste(face.crop.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
        said = f"called {face.verdict.lower()}"
        lines = (
            f"{i + 1}: {LABELS[a.case.label]}, {said}",
            a.case.made,
            f"P(fake) {face.fake_probability:.2f}",
        )
        for n, line in enumerate(lines):
            draw.text((x, y + TILE + 2 + 16 * n), line, fill="black", font=font)
    return sheet


def markdown(report: dict[str, Any]) -> str:
    """How often each treatment led to a wrong label, of the photos with a face, and the picture."""
    lines = [
        f"Checkpoint `{report['checkpoint'][:12]}`, {report['runtime']}, threshold "
        f"{report['threshold']:.3f}.",
        "",
        "| made of the photos with a face | real called fake | fake called real |",
        "|---|---|---|",
    ]
    for made, row in report["counts"].items():
        lines.append(
            f"| {made} | {row['real wrong']} of {row['real of']} "
            f"| {row['fake wrong']} of {row['fake of']} |"
        )
    if report["shown"]:
        lines += ["", "| picture | photo | what was made of it | it is | P(fake) |"]
        lines.append("|---|---|---|---|---|")
    for number, row in enumerate(report["shown"], start=1):
        lines.append(
            f"| {number} | {row['photo']} | {row['made']} | {row['label']} | {row['p_fake']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    args = parser(__doc__)
    args.add_argument(
        "--data", type=Path, default=Path("tests/fixtures"), help="photos that may be shown"
    )
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--out", type=Path, default=Path("runs/failures"), help="results' folder")
    args.add_argument("--most", type=int, default=10, help="so many on the picture")
    args.add_argument("--seed", type=int, default=0, help="of the forgeries")
    opt = args.parse_args()
    check_numbers(opt, above_zero=("most",), not_negative=("seed",))
    keep_memory()
    pipeline = Pipeline.from_file(opt.checkpoint)
    samples = read_samples(opt.data)
    answers = judged(pipeline, cases(pipeline, samples, opt.seed))
    shown = worst(answers, opt.most)
    report = {
        "checkpoint": pipeline.checkpoint.sha256,
        "runtime": pipeline.runtime.name,
        "threshold": pipeline.point.threshold,
    } | summary(answers, shown)
    opt.out.mkdir(parents=True, exist_ok=True)
    (opt.out / "failures.json").write_text(to_json(report), encoding="utf-8")
    picture(shown).save(opt.out / "failures.png")
    print(markdown(report))
    print(f"written to {opt.out}")
    return 0


if __name__ == "__main__":
    run(main)
