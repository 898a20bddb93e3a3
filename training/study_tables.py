"""What the runs of a study say: the figures of each recipe, their intervals, and the tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.decisions import mean_over_cells, rates, threshold_at
from training.recipes import RECIPES
from training.report import Result, columns
from training.scores import auc_by_source, bootstrap, scores
from training.tables import cell, figure_cells, markdown_table

REAL_CALLED_FAKE = 0.05  # of the sources trained on, where the threshold of leave-one-out lies


def leave_one_out_row(results: list[Result], left_out: str, rounds: int) -> dict[str, Any]:
    """What a network says about the source that it was not trained on.

    Args:
        results: of photos of all sources.
        left_out: that source.

    Returns:
        ``roc_auc`` on it, and the shares of its real photos and of its fakes that are called fake
        at ``threshold``, the lowest that at most ``REAL_CALLED_FAKE`` of the other sources' real
        photos exceed; each with its interval.
    """
    labels, p_fake, _, sources = columns(results)
    seen = np.asarray(sources) != left_out
    names = np.asarray(sources)[seen]
    threshold = threshold_at(labels[seen], p_fake[seen], names, REAL_CALLED_FAKE)
    own = [r for r in results if r.sample.source == left_out]
    labels, p_fake, groups, sources = columns(own)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        y, p = labels[rows], p_fake[rows]
        real, fake = rates(y, p, np.asarray(sources)[rows], threshold)
        found = {"roc_auc": scores(y, p)["roc_auc"]}
        return found | {"real_called_fake": real, "fake_called_fake": fake}

    values = figures(np.arange(len(own)))
    spread = bootstrap(figures, groups, sources, rounds, seed=0)
    row = {key: {"value": values[key], "interval": spread[key]} for key in values}
    return {"threshold": threshold, **row}


def ablation_row(
    results: list[list[Result]], base: list[list[Result]], rounds: int
) -> dict[str, Any]:
    """Mean AUC and accuracy over sources, and what the base has more, on the same photos.

    Args:
        results: of one run for each seed, of the same photos in the same order.
        base: of the runs it is compared with, one for each of these seeds.

    Returns:
        Means over the seeds, with 95 % intervals: of the photos by the bootstrap and, where there
        are several seeds, of these too.
    """
    labels, _, groups, sources = columns(base[0])
    names = np.asarray(sources)
    own, other = (np.stack([columns(run)[1] for run in runs]) for runs in (results, base))

    def of_one(p_fake: NDArray[np.float64], rows: NDArray[np.int64]) -> dict[str, float]:
        y, p, s = labels[rows], p_fake[rows], names[rows]
        aucs, right = auc_by_source(y, p, s.tolist()), (p > 0.5) == (y == 1)
        return {
            "roc_auc": float(np.mean(list(aucs.values()))) if aucs else float("nan"),
            "accuracy": mean_over_cells(right, np.ones(len(y), dtype=bool), s),
        }

    def by_seed(rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        pairs = [(of_one(a, rows), of_one(b, rows)) for a, b in zip(own, other, strict=True)]
        found = {}
        for key in ("roc_auc", "accuracy"):
            found[key] = np.array([a[key] for a, _ in pairs])
            found[f"loss/{key}"] = np.array([b[key] - a[key] for a, b in pairs])
        return found

    def means(rows: NDArray[np.int64]) -> dict[str, float]:
        return {key: float(values.mean()) for key, values in by_seed(rows).items()}

    every = by_seed(np.arange(len(labels)))
    spread = bootstrap(means, groups, sources, rounds, seed=0)
    aucs = [auc_by_source(labels, p_fake, sources) for p_fake in own]
    return {
        "mean": {
            key: {"value": float(v.mean()), "interval": with_seeds(spread[key], v)}
            for key, v in every.items()
        },
        "sources": {s: float(np.mean([row[s] for row in aucs])) for s in aucs[0]},
    }


def with_seeds(photos: tuple[float, float], by_seed: NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval of a mean over seeds, from that of the photos alone and the seeds' values.

    Seeds and photos are drawn apart from one another, so the half-widths add up as squares do.
    That of n seeds is Student's: t(0.975, n - 1) s / sqrt(n). Of one seed nothing is known.
    """
    count, mean = len(by_seed), float(by_seed.mean())
    if count < 2:
        return photos
    reach = float(stats.t.ppf(0.975, count - 1) * by_seed.std(ddof=1) / math.sqrt(count))
    low, high = photos
    return mean - math.hypot(mean - low, reach), mean + math.hypot(high - mean, reach)


def step_row(
    name: str,
    measured: dict[str, list[Result]],
    thresholds: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    """Means over the sources left out, and what the AUC gained on the recipe before.

    Args:
        name: of a recipe.
        measured: by recipe, results of the same photos in the same order, each source's from the
            run that was not trained on it.
        thresholds: of that recipe's run without each source.
    """
    names = list(RECIPES)
    before = measured.get(names[names.index(name) - 1]) if name != names[0] else None
    found = ablation_row([measured[name]], [before or measured[name]], rounds)["mean"]
    row = {"mean": found["roc_auc"]}
    if before:
        low, high = found["loss/roc_auc"]["interval"]
        row["gain"] = {"value": -found["loss/roc_auc"]["value"], "interval": (-high, -low)}
    labels, p_fake, groups, sources = columns(measured[name])
    own = np.asarray(sources)
    called = (p_fake > np.array([thresholds[s] for s in sources])).astype(float)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        shares = rates(labels[rows], called[rows], own[rows], 0.5)
        return dict(zip(("real_called_fake", "fake_called_fake"), shares, strict=True))

    values = figures(np.arange(len(called)))
    spread = bootstrap(figures, groups, sources, rounds, seed=0)
    return row | {key: {"value": values[key], "interval": spread[key]} for key in values}


def markdown(report: dict[str, Any]) -> str:
    """The studies' tables."""
    lines: list[str] = []
    if study := report.get("leave-one-out"):
        lines += [
            "ROC-AUC on a source that was left out of training:",
            "",
            *_leave_one_out_table(
                study, "roc_auc", (("mean", "mean"), ("gained on the recipe before", "gain"))
            ),
            "",
            "Real photos of that source that are called fake, at a threshold that "
            f"{REAL_CALLED_FAKE:.0%} of the real photos of the others exceed, and its fakes that "
            "are found there:",
            "",
            *_leave_one_out_table(
                study,
                "real_called_fake",
                (("mean", "real_called_fake"), ("fakes found, mean", "fake_called_fake")),
            ),
            "",
            _options(study),
            "",
        ]
    if study := report.get("ablation"):
        rows, seeds = study["rows"], study.get("seeds")
        sources = sorted({s for row in rows.values() for s in row["sources"]})
        head = ["recipe", "ROC-AUC", "lost", "accuracy", "lost", *(f"AUC {s}" for s in sources)]
        lines += [
            "One part of the recipe changed, and what is lost by it, on the same crops"
            + (f"; means of the seeds {', '.join(map(str, seeds))}:" if seeds else ":"),
            "",
        ]
        keys, cells = ("roc_auc", "loss/roc_auc", "accuracy", "loss/accuracy"), []
        for name, row in rows.items():
            aucs = [f"{row['sources'].get(s, float('nan')):.3f}" for s in sources]
            cells.append([name, *figure_cells(row["mean"], keys), *aucs])
        lines += [*markdown_table(head, cells), "", _options(study), ""]
    return "\n".join(lines).rstrip() + "\n"


def _leave_one_out_table(
    study: dict[str, Any], key: str, means: tuple[tuple[str, str], ...]
) -> list[str]:
    """One figure of every run, a line for each recipe, and the means (title, key) beside it."""
    rows = study["rows"]
    sources = sorted({s for row in rows.values() for s in row})
    titles = ["recipe", *sources, *(title for title, _ in means)]
    lines = []
    for name, row in rows.items():
        step = study.get("steps", {}).get(name, {})
        found = [row.get(s, {}).get(key) for s in sources] + [step.get(k) for _, k in means]
        cells = [cell(f["value"], f["interval"]) if f else "" for f in found]
        lines.append([name, *cells])
    return markdown_table(titles, lines)


def _options(study: dict[str, Any]) -> str:
    given = list(study["options"])
    if study.get("seeds") and "--seed" in given:  # each run had one of those instead
        at = given.index("--seed")
        del given[at : at + 2]
    options = " ".join(given)
    return f"Options of every run: `{options}`; measured on crops of the validation split."
