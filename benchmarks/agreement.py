"""Whether the runtime that serves answers as eager PyTorch does, on every photo of a split.

Exit status 1 when it does not: within 0.001 of P(fake) in float32, 0.01 in bfloat16, and the same
label wherever PyTorch's own answer is further than that from the threshold.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepfake.checkpoint import load
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict
from training.cli import check_numbers, parser, run
from training.data import SPLITS, of_split, read_samples

BATCH = 16
ALLOWED = {"f32": 1e-3, "bf16": 1e-2}


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--data", type=Path, default=Path("data"), help="data folder or manifest")
    args.add_argument("--split", choices=SPLITS, default="test")
    args.add_argument("--checkpoint", type=Path, default=Path("saved_model.pth"))
    args.add_argument("--limit", type=int, default=0, help="so many photos at most; 0: all")
    args.add_argument("--out", type=Path, default=Path("benchmarks/agreement.json"))
    opt = args.parse_args()
    check_numbers(opt, above_zero=(), not_negative=("limit",))
    samples = of_split(read_samples(opt.data), opt.split)[: opt.limit or None]
    served, eager = (
        Pipeline(load(opt.checkpoint), runtime=runtime) for runtime in ("auto", "torch")
    )
    allowed = ALLOWED[served.runtime.name.split()[-1]]
    faces, flips, gaps = 0, 0, [0.0]
    todo = iter(tqdm(samples, unit="photo"))
    while batch := list(islice(todo, BATCH)):
        crops = [
            face.crop
            for answer in served.predict([s.path.read_bytes() for s in batch])
            if isinstance(answer, Verdict)
            for face in answer.faces
        ]
        if not crops:
            continue
        mine, theirs = (np.array(p.classify(crops)) for p in (served, eager))
        gaps.append(float(np.abs(mine - theirs).max()))
        mean, threshold = theirs.mean(axis=1), served.point.threshold
        changed = (mine.mean(axis=1) > threshold) != (mean > threshold)
        flips += int((changed & (np.abs(mean - threshold) > allowed)).sum())
        faces += len(crops)
    found = {
        "checkpoint": served.checkpoint.sha256,
        "runtime": served.runtime.name,
        "split": opt.split,
        "photos": len(samples),
        "faces": faces,
        "largest_difference": max(gaps),
        "allowed": allowed,
        "labels_changed": flips,
    }
    opt.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    return 0 if faces and max(gaps) <= allowed and not flips else 1


if __name__ == "__main__":
    run(main)
