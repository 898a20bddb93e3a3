"""Which samples a run gets: folds, epochs with as many of each class, a few for a rehearsal."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from deepfake.errors import DataError
from training.data import LABELS, Sample


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
    if max(Counter(strata).values()) < n_folds:  # which scikit-learn refuses
        strata = [str(s.label) for s in samples]
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


def paired(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples as fake, real, fake, real ..., partners of one source wherever they can be.

    Where there are more of one class, what is left of it comes last.
    """
    reals: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.label == 0:
            reals[sample.source].append(sample)
    found, alone = [], []
    for fake in (s for s in samples if s.label == 1):
        if reals[fake.source]:
            found += [fake, reals[fake.source].pop()]
        else:
            alone.append(fake)
    rest = [s for left in reals.values() for s in left]
    return found + [s for pair in zip_longest(alone, rest) for s in pair if s is not None]


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
