"""Average the weights of a checkpoint and of one that was trained on from it.

A short training for something new (another augmentation, more photos) costs some of what was known.
Half-way between the weights before and after it most of both is there (WiSE-FT: Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022). It works for two points of one training only:
networks that were begun apart have nothing between them.

    python -m training.average --before runs/b4/saved_model.pth \\
      --after runs/b4-edits/saved_model.pth --out saved_model.pth

Calibrate the result anew.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from deepfake.checkpoint import Checkpoint, load, save
from deepfake.errors import DataError
from training.cli import parser, run


def averaged(before: Checkpoint, after: Checkpoint, share: float) -> Checkpoint:
    """``(1 - share) * before + share * after``, weight by weight, neither calibrated nor measured.

    Running statistics of normalisation layers are averaged too.

    Args:
        share: of ``after``, in [0, 1].

    Raises:
        DataError: the two are of different networks, or crop faces differently.
    """
    old, new = before.model.state_dict(), after.model.state_dict()
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (old, new)]
    kinds = [(c.model.backbone_name, c.model.image_size) for c in (before, after)]
    if shapes[0] != shapes[1] or kinds[0] != kinds[1]:  # tf_ networks pad their input otherwise
        raise DataError(
            f"{before.model.backbone_name} and {after.model.backbone_name} as they are in the two "
            "checkpoints cannot be averaged: they are different networks."
        )
    if before.crop_margin != after.crop_margin:
        raise DataError(
            f"The checkpoints crop with margins of {before.crop_margin} and {after.crop_margin}; "
            "only those that see the same can be averaged."
        )
    model = deepcopy(after.model)
    mixed = {
        name: old[name].lerp(value, share) if value.is_floating_point() else value
        for name, value in new.items()
    }
    model.load_state_dict(mixed)
    history = {"before": before.sha256, "after": after.sha256, "share": share}
    training = {**after.training, "averaged": history}
    return Checkpoint(model=model, crop_margin=after.crop_margin, training=training)


def main() -> int:
    args = parser(__doc__)
    args.add_argument("--before", type=Path, required=True, help="checkpoint before the training")
    args.add_argument("--after", type=Path, required=True, help="checkpoint after it")
    args.add_argument("--share", type=float, default=0.5, help="of the one after, 0 to 1")
    args.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    opt = args.parse_args()
    if not 0 <= opt.share <= 1:
        raise DataError(f"--share is {opt.share}, not in [0, 1].")
    save(opt.out, averaged(load(opt.before), load(opt.after), opt.share))
    print(
        f"{opt.out}: {1 - opt.share:g} x {opt.before} + {opt.share:g} x {opt.after}; calibrate it"
    )
    return 0


if __name__ == "__main__":
    run(main)
