"""Fixtures of several rooms."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks again after a while; here nobody will ever listen."""
    monkeypatch.setattr("frontend.client.BACK_OFF", (0.0, 0.0))
