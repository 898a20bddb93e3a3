"""docs/openapi.yaml, and whether a document is as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

PATH = Path(__file__).resolve().parents[1] / "docs" / "openapi.yaml"
SPEC = yaml.safe_load(PATH.read_text(encoding="utf-8"))


def validate(document: object, schema: str, without: str = "") -> None:
    """Against one of its schemas; ValidationError where it is not so.

    Args:
        without: a property that the document need not have yet.
    """
    components: dict[str, Any] = SPEC["components"]
    wanted = dict(components["schemas"][schema])
    wanted["required"] = [name for name in wanted["required"] if name != without]
    root = {**wanted, "components": components}
    jsonschema.Draft202012Validator(root).validate(document)
