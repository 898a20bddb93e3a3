"""Figures as Markdown tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def to_json(report: Any) -> str:
    """The report as JSON, with null for what is not known: JSON has no NaN."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: known(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [known(v) for v in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return json.dumps(known(report), indent=2, allow_nan=False)


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def figure_cells(figures: dict[str, Any], keys: Iterable[str]) -> list[str]:
    """Some of the figures, each a ``value`` with its ``interval``, as a table shows them."""
    return [cell(figures[key]["value"], figures[key]["interval"]) for key in keys]


def cell(value: float | None, interval: Sequence[float]) -> str:
    """A figure with its interval, as a table shows it; None and NaN are what is not known."""
    if value is None or np.isnan(value):
        return "n/a"
    to = " to " if interval[0] < 0 else "-"
    return f"{value:.3f} ({interval[0]:.3f}{to}{interval[1]:.3f})"
