"""The pages about the model and the API, and the file that all sentences come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import accumulate
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient

from frontend import documents, text
from frontend.app import create_app
from tests.conftest import ROOT

SPEC = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
TEMPLATES = sorted((ROOT / "frontend" / "templates").glob("*.html"))


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app().test_client()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def test_the_model_card_is_readable(client: FlaskClient) -> None:
    page = client.get("/docs/model-card").text
    card = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    for heading in re.findall(r"^## (.+)$", card, re.MULTILINE):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<table>") == len(re.findall(r"^\|(?: ?-|-)[-| ]+\|$", card, re.MULTILINE))
    assert "begin facts" not in page  # marks for the program that fills in the tables


def test_links_and_pictures_of_the_model_card_lead_somewhere(client: FlaskClient) -> None:
    page = client.get("/docs/model-card").text
    article = page.partition("<article")[2].partition("</article>")[0]
    targets = re.findall(r'(?:href|src)="([^"]+)"', article)
    assert targets
    for target in targets:
        with client.get(target) as answer:
            assert answer.status_code == 200, target


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("[x](javascript:alert(1))", 'href="javascript'),
        ("![x](https://example.org/x.png)", "example.org/x.png"),
        ("[x](../../etc/passwd)", "href"),
    ],
)
def test_markdown_can_do_no_harm(source: str, bad: str) -> None:
    assert bad not in documents.markdown(source)


def test_outside_links_stay(client: FlaskClient) -> None:
    assert 'href="https://example.org/"' in documents.markdown("[x](https://example.org/)")


def test_without_its_files_the_page_says_so(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "CARD", ROOT / "nowhere.md")
    documents.model_card.cache_clear()
    assert "not installed here" in client.get("/docs/model-card").text
    documents.model_card.cache_clear()
    monkeypatch.setitem(documents.FILES, "evaluation.png", ROOT / "nowhere.png")
    assert client.get("/docs/evaluation.png").status_code == 404


def test_the_api_page_has_all_of_the_document(client: FlaskClient) -> None:
    page = words(client.get("/docs/api", base_url="http://127.0.0.1:5000").text)
    for path, item in SPEC["paths"].items():
        for method, operation in item.items():
            if method == "servers":
                continue
            assert f"{method.upper()} {path} {operation['summary']}" in page
            assert operation["tags"][0] in ("page", "service")
            for status, answer in operation["responses"].items():
                assert f"{status} {words(answer['description']).strip()}" in page
            for sample in operation["x-codeSamples"]:
                assert words(sample["source"]).strip() in page
    for schema in SPEC["components"]["schemas"].values():
        for name, field in schema.get("properties", {}).items():
            assert f"{name} {documents.type_of(field)}" in page
    with client.get("/docs/openapi.yaml") as answer:
        assert yaml.safe_load(answer.data) == SPEC


def test_the_pages_errors_are_documented() -> None:
    schemas = SPEC["components"]["schemas"]
    code = schemas["PageError"]["properties"]["error"]["properties"]["code"]
    own = code["anyOf"][1]["enum"]
    described = set(text.load()["errors"]) - {"next", "number", "ours"}
    for_programs = {"key_required", "key_revoked"}
    assert set(own) - {"backend_failed"} - for_programs <= described


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/components/schemas/Face"}, "Face"),
        ({"type": "array", "items": {"$ref": "#/x/Face"}}, "array of Face"),
        ({"type": ["number", "null"], "minimum": 0, "maximum": 1}, "number or null, 0 to 1"),
        ({"type": "string", "enum": ["a", "b"]}, "a | b"),
        ({"type": "string", "contentEncoding": "base64"}, "string, base64"),
        ({"allOf": [{"$ref": "#/x/Probability"}]}, "Probability"),
        ({}, "anything"),
    ],
)
def test_types_in_words(schema: dict[str, Any], words: str) -> None:
    assert documents.type_of(schema) == words


# The sentences


def keys(sentences: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in sentences.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


USED_BY_CODE = ("script.", "percent.", "errors.", "verdicts.", "samples.", "result.key_", "face.")


def test_templates_ask_only_for_sentences_that_are_there() -> None:
    known = set(keys(text.load()))
    known |= {part for key in known for part in accumulate(key.split("."), "{}.{}".format)}
    for template in TEMPLATES:
        for key in re.findall(r"\bt\.([a-z_.]+)", template.read_text(encoding="utf-8")):
            stem = key.removesuffix(".format").removesuffix(".get")
            assert stem in known, f"{template.name}: {stem}"


def test_every_sentence_is_used() -> None:
    templates = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES)
    script = (ROOT / "frontend" / "static" / "page.js").read_text(encoding="utf-8")
    for key in keys(text.load()):
        if key.startswith("script."):
            used = f"words.{key.partition('.')[2]}" in script or f"t.{key}" in templates
            assert used, key
        elif not key.startswith(USED_BY_CODE):
            assert f"t.{key}" in templates, key


def test_templates_hold_no_sentences_of_their_own() -> None:
    for template in TEMPLATES:
        source = template.read_text(encoding="utf-8")
        source = re.sub(r"{% block kind %}.*?{% endblock %}", "", source)
        source = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}", "", source, flags=re.DOTALL)
        assert not re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>", "", source)), template.name


def test_another_language_needs_only_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    german = text.load() | {"language": "de"}
    monkeypatch.setattr(text, "load", lambda language: german if language == "de" else {})
    page = create_app({"LANGUAGE": "de"}).test_client().get("/").text
    assert '<html lang="de">' in page
