"""Pictures of a run and of an evaluation, as PNG. Without matplotlib they are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The epochs in ``metrics.jsonl`` of a run's folder, oldest first.

    A line that a full disk or a power cut left unfinished is skipped.
    """
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def figure(columns: int) -> tuple[Any, Any] | None:
    """A matplotlib figure with so many axes side by side, or None where it is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    made = Figure(figsize=(5 * columns, 4), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(1, columns, squeeze=False)[0]


def plot_curves(out: Path, rows: list[dict[str, Any]]) -> None:
    """``curves.png``: training loss, validation AUC per source, learning rate, by epoch."""
    made = figure(3)
    if made is None:
        return
    canvas, (loss, auc, rate) = made
    epochs = [r["epoch"] for r in rows]
    loss.plot(epochs, [r["train_loss"] for r in rows], marker="o")
    loss.set(title="training loss (focal)", xlabel="epoch")
    for source in rows[-1]["val_auc"]:
        auc.plot(epochs, [r["val_auc"].get(source) for r in rows], alpha=0.6, label=source)
    auc.plot(epochs, [r["val_score"] for r in rows], "k", marker="o", label="mean")
    auc.set(title="validation ROC-AUC", xlabel="epoch")
    auc.legend(fontsize="small")
    rate.plot(epochs, [r["lr"] for r in rows], marker="o")
    rate.set(title="learning rate at the epoch's end", xlabel="epoch")
    canvas.savefig(out / "curves.png", dpi=110)
