"""MODEL_CARD.md and docs/openapi.yaml as pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "MODEL_CARD.md"
FILES = {
    "openapi.yaml": ROOT / "docs" / "openapi.yaml",
    "evaluation.png": ROOT / "docs" / "evaluation" / "evaluation.png",
    "failures.png": ROOT / "docs" / "evaluation" / "failures.png",
}
# Where the documents' links to other files of the project lead on the page; others lead nowhere.
PLACES = {
    "docs/evaluation/evaluation.png": "/docs/evaluation.png",
    "docs/evaluation/failures.png": "/docs/failures.png",
    "docs/openapi.yaml": "/docs/api",
    "MODEL_CARD.md": "/docs/model-card",
}
PAGE = "http://127.0.0.1:5000"  # where docs/openapi.yaml has the page
METHODS = ("get", "put", "post", "delete")


@cache
def model_card() -> Markup | None:
    """The model card as HTML; None where it is not installed."""
    if not CARD.is_file():
        return None
    text = re.sub(r"<!--.*?-->", "", CARD.read_text(encoding="utf-8"), flags=re.DOTALL)
    html = _renderer().render(text)
    # Markdown wants every table to have a head; a screen reader would read out an empty one.
    html = re.sub(r"<thead>\s*<tr>\s*(<th></th>\s*)+</tr>\s*</thead>", "", html)
    return Markup(html.replace("<pre>", '<pre tabindex="0">'))  # it may have to be scrolled


def markdown(text: str) -> Markup:
    """A description in Markdown as HTML."""
    return Markup(_renderer().render(text))


@cache
def api() -> dict[str, Any]:
    """docs/openapi.yaml, its operations grouped by tag.

    Returns:
        ``info``, ``tags`` (each with its ``operations``: method, path, server and the operation's
        own keys) and ``schemas``.
    """
    document = yaml.safe_load(FILES["openapi.yaml"].read_text(encoding="utf-8"))
    operations = [
        operation | {"method": method.upper(), "path": path, "server": item["servers"][0]["url"]}
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]
    tags = [
        tag | {"operations": [o for o in operations if tag["name"] in o["tags"]]}
        for tag in document["tags"]
    ]
    return {"info": document["info"], "tags": tags, "schemas": document["components"]["schemas"]}


def type_of(schema: dict[str, Any]) -> str:
    """A schema in words: "array of Face", "number, 0 to 1", "Fake | Real"."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("allOf", "anyOf"):
        if key in schema:
            return " | ".join(type_of(part) for part in schema[key])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kinds = schema.get("type", "anything")
    kind = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "items" in schema:
        return kind.replace("array", f"array of {type_of(schema['items'])}")
    if "minimum" in schema and "maximum" in schema:
        return f"{kind}, {schema['minimum']} to {schema['maximum']}"
    detail = schema.get("contentEncoding") or schema.get("format")
    return f"{kind}, {detail}" if detail else kind


@cache
def _renderer() -> MarkdownIt:
    """CommonMark and tables; HTML is escaped, and javascript: links are left as text."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in (("link_open", _link), ("link_close", _link_end), ("image", _image)):
        parser.add_render_rule(name, rule)
    parser.add_render_rule("table_open", _table)
    parser.add_render_rule("table_close", _table_end)
    return parser


def _link(
    self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
) -> str:
    target = str(tokens[idx].attrs["href"])
    if not urlsplit(target).scheme and not target.startswith("#"):
        if target not in PLACES:
            env["unlinked"] = True
            return ""
        tokens[idx].attrs["href"] = PLACES[target]
    return self.renderToken(tokens, idx, options, env)


def _link_end(
    self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
) -> str:
    return "" if env.pop("unlinked", False) else self.renderToken(tokens, idx, options, env)


def _image(
    self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType
) -> str:
    tokens[idx].attrs["src"] = PLACES.get(str(tokens[idx].attrs["src"]), "")
    return self.image(tokens, idx, options, env)


def _table(*_: object) -> str:
    return '<div class="scroll" tabindex="0"><table>\n'


def _table_end(*_: object) -> str:
    return "</table></div>\n"
