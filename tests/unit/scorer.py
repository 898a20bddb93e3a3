"""What tests of `deepfake-score` share: it runs in their process, without Ray (conftest.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Ended

NAME = f"0354OJ4dNRcxxc5CA1S1NJ_{'0a' * 16}_{{:06}}-0.parquet"  # as Ray names a part

Program = Callable[..., Ended]


def rows_in(out: Path) -> dict[str, dict[str, Any]]:
    """By path; as the document reads them."""
    import pyarrow.dataset as ds

    rows = ds.dataset(out, format="parquet").to_table().to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows), "a path has two rows"
    return by_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
