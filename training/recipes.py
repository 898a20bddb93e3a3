"""The recipes that studies compare, and the training runs that this takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake.errors import DataError

_SWAPS = ("part-swap", "face-swap", "self-blend")
RECIPES = {
    "plain": ("--forged", "0", "--light", "1", "--evenness", "0", "--ema", "0"),
    "+ degradation": ("--forged", "0", "--evenness", "0", "--ema", "0"),
    "+ self-blends": ("--forgeries", "self-blend", "--evenness", "0", "--ema", "0"),
    "+ part swaps": ("--evenness", "0", "--ema", "0"),
    "+ even sources": ("--ema", "0"),
    "+ averaged weights": (),
    "+ up-sampling": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
    "+ larger margin": ("--forgeries", "part-swap", "self-blend", "up-sampling"),
    "face swaps for up-sampling": ("--forgeries", *_SWAPS),
    "forgeries alone": ("--forged", "1", "--forgeries", *_SWAPS),
}
"""Leave-one-out: from a plain start to the full recipe, one step after the other, and beyond."""

WIDE = tuple(RECIPES)[list(RECIPES).index("+ larger margin") :]  # those that take other crops

ABLATIONS = {
    "full recipe": (),
    "without CBAM": ("--no-cbam",),
    "cross-entropy": ("--focal-gamma", "0", "--focal-alpha", "1"),
    "160 px": ("--image-size", "160"),
    "without forgeries": ("--forged", "0"),
    "always degraded": ("--light", "0"),
    "never degraded": ("--light", "1"),
    "sources by size": ("--evenness", "0"),
    "without averaged weights": ("--ema", "0"),
    "with face swaps": ("--forgeries", *_SWAPS),
    "with mixup": ("--mixup", "0.2"),
}
BASE = "full recipe"


@dataclass(frozen=True)
class Arm:
    """One training run of a study.

    Attributes:
        name: of the recipe.
        options: what it changes, for training.train.
        left_out: the source it is not trained on; empty in an ablation.
        crops: what it is trained and measured on.
        seed: instead of the one in the options that are shared.
    """

    name: str
    options: tuple[str, ...]
    left_out: str = ""
    crops: Path = Path("crops")
    seed: int | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        text = f"{self.name}--{self.left_out}" if self.left_out else self.name
        text += "" if self.seed is None else f"--seed-{self.seed}"
        return "".join(c if c.isalnum() or c == "-" else "_" for c in text)


def arms_of(
    study: str,
    sources: list[str],
    only: list[str],
    crops: Path,
    wide: Path | None = None,
    seeds: Sequence[int | None] = (None,),
) -> list[Arm]:
    """The runs of a study, of all its recipes or of those named.

    Raises:
        DataError: a name is unknown, or wants crops of a larger margin where there are none.
    """
    recipes = RECIPES if study == "leave-one-out" else ABLATIONS
    if unknown := [name for name in only if name not in recipes]:
        raise DataError(f"--only {unknown[0]!r} is not one of {', '.join(recipes)}.")
    needs = [name for name in only if name in WIDE]
    if needs and wide is None:
        raise DataError(
            f"--only {needs[0]!r} needs --wide, crops that were cut with a larger margin."
        )
    left_out = sources if study == "leave-one-out" else [""]
    chosen = only or [name for name in recipes if name not in WIDE or wide is not None]
    return [
        Arm(name, recipes[name], source, wide if wide and name in WIDE else crops, seed)
        for name in chosen
        for source in left_out
        for seed in seeds
    ]
