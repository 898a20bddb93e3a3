"""The page's sentences: one YAML file a language, and how their blanks are filled in."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml


@cache
def load(language: str = "en") -> dict[str, Any]:
    """The sentences of a language, nested as in its file; ValueError where there is none."""
    files = {file.name: file for file in resources.files(__name__).iterdir()}
    if f"{language}.yaml" not in files:
        known = ", ".join(sorted(n.removesuffix(".yaml") for n in files if n.endswith(".yaml")))
        raise ValueError(f"LANGUAGE is {language!r}; there are sentences in {known}.")
    text = files[f"{language}.yaml"].read_text(encoding="utf-8")
    sentences: dict[str, Any] = yaml.safe_load(text)
    return sentences


def percent(probability: float, language: str = "en") -> str:
    """0.873 -> "87.3 %", with a space that does not break. Never 0 or 100."""
    words: dict[str, str] = load(language)["percent"]
    if probability > 0.999:
        return words["over"].format(p="99.9\u00a0%")
    if probability < 0.001:
        return words["under"].format(p="0.1\u00a0%")
    return f"{100 * probability:.1f}\u00a0%"


def setting(probability: float) -> str:
    """A threshold, which is exact: 0.5 -> "50 %", 0.7754 -> "77.5 %"."""
    return f"{100 * probability:.1f}".removesuffix(".0") + "\u00a0%"
