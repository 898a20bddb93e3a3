"""What an evaluation says: scores with intervals, Markdown tables, pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from deepfake.errors import DataError
from training.data import Sample
from training.plots import figure
from training.scores import SCORES, confusion, intervals, mean_over_sources, scores

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


@dataclass(frozen=True)
class Result:
    """The pipeline's answer about one sample: P(fake), or why there is none."""

    sample: Sample
    p_fake: float | None
    error: str = ""


def summarise(results: list[Result], threshold: float, rounds: int, seed: int) -> dict[str, Any]:
    """Scores with 95 % intervals: per source, their mean, and all photos together."""
    answered = [r for r in results if r.p_fake is not None]
    if len({r.sample.label for r in answered}) < 2:
        raise DataError("Fewer than two classes were answered; there is nothing to measure.")
    names = sorted({r.sample.source for r in answered})
    tables = {
        name: _table([r for r in answered if r.sample.source == name], threshold, rounds, seed)
        for name in names
    }
    labels, p_fake, groups, sources = _columns(answered)
    mean = {
        "scores": mean_over_sources(labels, p_fake, sources, threshold),
        "intervals": intervals(
            labels, p_fake, groups, sources, threshold=threshold, rounds=rounds, seed=seed
        ),
    }
    unanswered: dict[str, dict[str, int]] = {}
    for r in results:
        if r.p_fake is None:
            counts = unanswered.setdefault(r.sample.source, {})
            counts[r.error] = counts.get(r.error, 0) + 1
    return {
        "sources": tables,
        "mean_over_sources": mean,
        "overall": _table(answered, threshold, rounds, seed),
        "photos": len(results),
        "unanswered": unanswered,
    }


def _columns(results: list[Result]) -> tuple[Any, Any, list[str], list[str]]:
    labels = np.array([r.sample.label for r in results])
    p_fake = np.array([r.p_fake for r in results], dtype=np.float64)
    return labels, p_fake, [r.sample.group for r in results], [r.sample.source for r in results]


def _table(results: list[Result], threshold: float, rounds: int, seed: int) -> dict[str, Any]:
    labels, p_fake, groups, _ = _columns(results)
    return {
        "real": int((labels == 0).sum()),
        "fake": int((labels == 1).sum()),
        "scores": scores(labels, p_fake, threshold),
        "intervals": intervals(
            labels, p_fake, groups, threshold=threshold, rounds=rounds, seed=seed
        ),
        "confusion": confusion(labels, p_fake, threshold),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    head = report["run"]
    lines = [
        f"Checkpoint `{head['checkpoint'][:12]}` ({head['backbone']}, {head['image_size']} px), "
        f"split `{head['split']}`, {report['photos']} photos, threshold {head['threshold']}, "
        f"temperature {head['temperature']:.3f}. 95 % intervals: {head['rounds']} bootstrap "
        "resamples of whole groups.",
        "",
        "| source | real / fake | " + " | ".join(HEADINGS.values()) + " |",
        "|---|---|" + "---|" * len(HEADINGS),
    ]
    rows = [(name, t, f"{t['real']} / {t['fake']}") for name, t in report["sources"].items()]
    rows.append(("**mean over sources**", report["mean_over_sources"], ""))
    overall = report["overall"]
    rows.append(("all together", overall, f"{overall['real']} / {overall['fake']}"))
    for name, table, counts in rows:
        cells = [_cell(table["scores"][key], table["intervals"][key]) for key in SCORES]
        lines.append(f"| {name} | {counts} | " + " | ".join(cells) + " |")
    lines += ["", "| source | real called real | real called fake | fake called real "]
    lines[-1] += "| fake called fake |"
    lines.append("|---|---|---|---|---|")
    for name, table, _ in rows:
        if "confusion" in table:
            (tn, fp), (fn, tp) = table["confusion"]
            lines.append(f"| {name} | {tn} | {fp} | {fn} | {tp} |")
    lost = {s: ", ".join(f"{n} {e}" for e, n in c.items()) for s, c in report["unanswered"].items()}
    listed = "; ".join(f"{s}: {text}" for s, text in sorted(lost.items())) or "none"
    lines += ["", f"Photos without an answer (not scored): {listed}.", ""]
    return "\n".join(lines)


def to_json(report: Any) -> str:
    """The report as JSON, with null for what is not known: JSON has no NaN."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: known(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [known(v) for v in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return json.dumps(known(report), indent=2, allow_nan=False)


def _cell(value: float, interval: Sequence[float]) -> str:
    if np.isnan(value):
        return "n/a"
    return f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def plot(results: list[Result], path: Path) -> bool:
    """``roc.png`` and calibration side by side; False where matplotlib is not installed."""
    made = figure(2)
    if made is None:
        return False
    canvas, (roc, calibration) = made
    answered = [r for r in results if r.p_fake is not None]
    for name in sorted({r.sample.source for r in answered}):
        labels, p_fake, _, _ = _columns([r for r in answered if r.sample.source == name])
        if len(set(labels)) == 2:
            fpr, tpr, _ = roc_curve(labels, p_fake)
            roc.plot(fpr, tpr, label=name)
    roc.plot([0, 1], [0, 1], "k:", linewidth=1, label="chance")
    roc.set(title="ROC", xlabel="real photos called fake", ylabel="fakes found")
    roc.legend(fontsize="small")
    labels, p_fake, _, _ = _columns(answered)
    index = np.minimum((p_fake * 10).astype(int), 9)
    filled = np.unique(index)
    calibration.plot(
        [p_fake[index == i].mean() for i in filled],
        [labels[index == i].mean() for i in filled],
        marker="o",
    )
    calibration.plot([0, 1], [0, 1], "k:", linewidth=1)
    calibration.set(title="calibration", xlabel="mean P(fake)", ylabel="share of fakes")
    canvas.savefig(path, dpi=110)
    return True
