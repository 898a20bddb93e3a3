"""What an evaluation says: scores with intervals, Markdown tables, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from deepfake.checkpoint import DEFAULT_POINT, Checkpoint
from deepfake.errors import DataError
from training.data import Sample
from training.decisions import mean_over_cells, rates, risk_coverage
from training.plots import figure
from training.scores import (
    SCORES,
    bootstrap,
    confusion,
    ece_if_calibrated,
    intervals,
    mean_over_sources,
    scores,
)
from training.tables import cell

HEADINGS = {
    "accuracy": "accuracy",
    "roc_auc": "ROC-AUC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "ap": "AP",
    "eer": "EER",
    "ece": "ECE",
}

POINT_SCORES = ("accuracy", "precision", "f1")  # of each operating point
VIEW_SCORES = ("roc_auc", "accuracy")  # of one view and of three


@dataclass(frozen=True)
class Result:
    """The pipeline's answer about one sample: P(fake) of each view, or why there is none."""

    sample: Sample
    views: tuple[float, ...] = ()
    error: str = ""

    @property
    def p_fake(self) -> float | None:
        """Mean over the views; None without an answer."""
        return sum(self.views) / len(self.views) if self.views else None


def summarise(
    results: list[Result], checkpoint: Checkpoint, rounds: int, seed: int
) -> dict[str, Any]:
    """Scores with 95 % intervals: per source, their mean, and all photos together.

    Also what each operating point, the uncertain band and the three views do, mean over sources.
    """
    answered = [r for r in results if r.views]
    if len({r.sample.label for r in answered}) < 2:
        raise DataError("Fewer than two classes were answered; there is nothing to measure.")
    threshold = checkpoint.threshold
    names = sorted({r.sample.source for r in answered})
    tables = {
        name: _table([r for r in answered if r.sample.source == name], threshold, rounds, seed)
        for name in names
    }
    labels, p_fake, groups, sources = columns(answered)
    mean = {
        "scores": mean_over_sources(labels, p_fake, sources, threshold),
        "intervals": intervals(
            labels, p_fake, groups, sources, threshold=threshold, rounds=rounds, seed=seed
        ),
        "ece_if_calibrated": ece_if_calibrated(p_fake, sources, rounds=rounds, seed=seed),
    }
    unanswered: dict[str, dict[str, int]] = {}
    for r in results:
        if not r.views:
            counts = unanswered.setdefault(r.sample.source, {})
            counts[r.error] = counts.get(r.error, 0) + 1
    return {
        "sources": tables,
        "mean_over_sources": mean,
        "overall": _table(answered, threshold, rounds, seed),
        "decisions": _decisions(answered, checkpoint, rounds, seed),
        "photos": len(results),
        "unanswered": unanswered,
    }


def _decisions(
    results: list[Result], checkpoint: Checkpoint, rounds: int, seed: int
) -> dict[str, Any]:
    """Operating points, the uncertain band, and the mean of the views against the first alone."""
    labels, p_fake, groups, sources = columns(results)
    names = np.asarray(sources)
    first = np.array([r.views[0] for r in results])
    points = checkpoint.operating_points
    band, serving = checkpoint.band(), checkpoint.point(DEFAULT_POINT).threshold
    low, high = band or (1.0, 0.0)

    def figures(rows: NDArray[np.int64]) -> dict[str, float]:
        y, p, s = labels[rows], p_fake[rows], names[rows]
        found: dict[str, float] = {}
        for name, point in points.items():
            of_real, of_fake = rates(y, p, s, point.threshold)
            found |= {f"{name}/false_positive_rate": of_real, f"{name}/recall": of_fake}
            there = mean_over_sources(y, p, s.tolist(), point.threshold, POINT_SCORES)
            found |= {f"{name}/{key}": there[key] for key in POINT_SCORES}
        decided = (p < low) | (p > high)
        wrong = (p > serving) != (y == 1)
        every = np.ones(len(rows), dtype=bool)
        found["coverage"] = mean_over_cells(decided, every, s)
        found["risk"] = mean_over_cells(wrong, decided, s)
        found["risk_all"] = mean_over_cells(wrong, every, s)
        one = mean_over_sources(y, first[rows], s.tolist(), checkpoint.threshold, VIEW_SCORES)
        three = mean_over_sources(y, p, s.tolist(), checkpoint.threshold, VIEW_SCORES)
        for key in VIEW_SCORES:
            found |= {f"one_view/{key}": one[key], f"three_views/{key}": three[key]}
            found[f"gain/{key}"] = three[key] - one[key]
        return found

    spread = bootstrap(figures, groups, sources, rounds, seed)
    values = figures(np.arange(len(results)))
    return {
        "validation": {name: asdict(point) for name, point in points.items()},
        "band": band and list(band),
        "serving": serving,
        "figures": {key: {"value": values[key], "interval": spread[key]} for key in values},
    }


def columns(results: Sequence[Result]) -> tuple[Any, Any, list[str], list[str]]:
    """Labels, P(fake), groups and sources of answered results."""
    labels = np.array([r.sample.label for r in results])
    p_fake = np.array([r.p_fake for r in results], dtype=np.float64)
    return labels, p_fake, [r.sample.group for r in results], [r.sample.source for r in results]


def _table(results: list[Result], threshold: float, rounds: int, seed: int) -> dict[str, Any]:
    labels, p_fake, groups, _ = columns(results)
    return {
        "real": int((labels == 0).sum()),
        "fake": int((labels == 1).sum()),
        "scores": scores(labels, p_fake, threshold),
        "intervals": intervals(
            labels, p_fake, groups, threshold=threshold, rounds=rounds, seed=seed
        ),
        "ece_if_calibrated": ece_if_calibrated(p_fake, rounds=rounds, seed=seed),
        "confusion": confusion(labels, p_fake, threshold),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    head = report["run"]
    lines = [
        f"Checkpoint `{head['checkpoint'][:12]}` ({head['backbone']}, {head['image_size']} px), "
        f"{head['runtime']}, split `{head['split']}`, {report['photos']} photos, "
        f"temperature {head['temperature']:.3f}; labels and views at threshold "
        f"{head['threshold']}, whatever serves. 95 % intervals: {head['rounds']} bootstrap "
        "resamples of whole groups; beside the ECE, where 95 % would be if P(fake) were perfectly "
        "calibrated.",
        "",
        "| source | real / fake | " + " | ".join(HEADINGS.values()) + " |",
        "|---|---|" + "---|" * len(HEADINGS),
    ]
    rows = [(name, t, f"{t['real']} / {t['fake']}") for name, t in report["sources"].items()]
    rows.append(("**mean over sources**", report["mean_over_sources"], ""))
    overall = report["overall"]
    rows.append(("all together", overall, f"{overall['real']} / {overall['fake']}"))
    for name, table, counts in rows:
        cells = [score_cell(table, key) for key in SCORES]
        lines.append(f"| {name} | {counts} | " + " | ".join(cells) + " |")
    lines += ["", "| source | real called real | real called fake | fake called real "]
    lines[-1] += "| fake called fake |"
    lines.append("|---|---|---|---|---|")
    for name, table, _ in rows:
        if "confusion" in table:
            (tn, fp), (fn, tp) = table["confusion"]
            lines.append(f"| {name} | {tn} | {fp} | {fn} | {tp} |")
    lines += _decision_tables(report["decisions"])
    lost = {s: ", ".join(f"{n} {e}" for e, n in c.items()) for s, c in report["unanswered"].items()}
    listed = "; ".join(f"{s}: {text}" for s, text in sorted(lost.items())) or "none"
    lines += ["", f"Photos without an answer (not scored): {listed}.", ""]
    return "\n".join(lines)


def _decision_tables(decisions: dict[str, Any]) -> list[str]:
    figures = decisions["figures"]

    def of(key: str) -> str:
        return cell(figures[key]["value"], figures[key]["interval"])

    lines = []
    if decisions["validation"]:
        lines += [
            "",
            "| operating point | threshold | real called fake: validation | this split "
            "| fake called fake: validation | this split | accuracy | precision | F1 |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, seen in decisions["validation"].items():
            lines.append(
                f"| {name} | {seen['threshold']:.4f} | {seen['false_positive_rate']:.3f} "
                f"| {of(name + '/false_positive_rate')} | {seen['recall']:.3f} "
                f"| {of(name + '/recall')} | "
                + " | ".join(of(f"{name}/{key}") for key in POINT_SCORES)
                + " |"
            )
    if decisions["band"]:
        low, high = decisions["band"]
        lines += [
            "",
            f"Uncertain where P(fake) lies from {low:.3f} to {high:.3f}: {of('coverage')} of the "
            f"photos are outside, and of those {of('risk')} are judged wrongly; of all photos "
            f"{of('risk_all')} are, by the threshold that serves ({decisions['serving']:.3f}).",
        ]
    lines += [
        "",
        "| views | ROC-AUC | accuracy |",
        "|---|---|---|",
        *(
            f"| {text} | {of(key + '/roc_auc')} | {of(key + '/accuracy')} |"
            for key, text in (
                ("one_view", "original alone"),
                ("three_views", "mean of three"),
                ("gain", "gain"),
            )
        ),
    ]
    return lines


def score_cell(table: dict[str, Any], key: str) -> str:
    """A score of an evaluation as a table shows it.

    The ECE's bootstrap interval would lie above it, since resampling adds to what chance has added
    already, so beside it stands the range of one that is perfectly calibrated.
    """
    if key == "ece":
        low, high = table["ece_if_calibrated"]
        return f"{table['scores'][key]:.3f} (chance: {low:.3f}-{high:.3f})"
    return cell(table["scores"][key], table["intervals"][key])


def plot(results: list[Result], path: Path) -> bool:
    """ROC, calibration and risk-coverage side by side; False where matplotlib is missing."""
    made = figure(3)
    if made is None:
        return False
    canvas, (roc, calibration, risk) = made
    answered = [r for r in results if r.views]
    for name in sorted({r.sample.source for r in answered}):
        labels, p_fake, _, _ = columns([r for r in answered if r.sample.source == name])
        if len(set(labels)) == 2:
            fpr, tpr, _ = roc_curve(labels, p_fake)
            roc.plot(fpr, tpr, label=name)
    roc.plot([0, 1], [0, 1], "k:", linewidth=1, label="chance")
    roc.set(title="ROC", xlabel="real photos called fake", ylabel="fakes found")
    roc.legend(fontsize="small")
    labels, p_fake, _, sources = columns(answered)
    index = np.minimum((p_fake * 10).astype(int), 9)
    filled = np.unique(index)
    calibration.plot(
        [p_fake[index == i].mean() for i in filled],
        [labels[index == i].mean() for i in filled],
        marker="o",
    )
    calibration.plot([0, 1], [0, 1], "k:", linewidth=1)
    calibration.set(title="calibration", xlabel="mean P(fake)", ylabel="share of fakes")
    _, coverage, wrong = risk_coverage(labels, p_fake, np.asarray(sources))
    risk.plot(coverage, wrong, marker=".")
    risk.set(
        title="risk and coverage",
        xlabel="share of photos outside the uncertain band",
        ylabel="share of those judged wrongly",
    )
    canvas.savefig(path, dpi=110)
    return True
