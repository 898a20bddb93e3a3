"""What the tests of deploy/ read: the Dockerfile, YAML files, metrics, PromQL."""

from __future__ import annotations

import fnmatch
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def load_all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@cache
def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages, each a list of (instruction, arguments), continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = found.setdefault(rest.rpartition(" AS ")[2], [])
        stage.append((word, rest.strip()))
    return found


def instruction(stage: str, word: str) -> str:
    """The arguments of the only such instruction of a stage."""
    (rest,) = (rest for found, rest in stages()[stage] if found == word)
    return rest


def copies(stage: str) -> list[tuple[list[str], str]]:
    """What a stage copies out of the project: sources and target."""
    lines = [rest for word, rest in stages()[stage] if word == "COPY" and "--from" not in rest]
    return [(line.split()[:-1], line.split()[-1]) for line in lines]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file of the project reach the build."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    parts = path.split("/")
    heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    verdict = True
    for line in lines:
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        if pattern.startswith("**/"):
            hit = any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        else:
            depth = pattern.count("/")
            hit = any(h.count("/") == depth and fnmatch.fnmatchcase(h, pattern) for h in heads)
        if hit:
            verdict = line.startswith("!")
    return verdict


@cache
def exported() -> dict[str, tuple[str, set[str]]]:
    """Every series that /metrics can have: its metric's type and its labels."""
    config = load("handler/metrics.yaml")
    series: dict[str, tuple[str, set[str]]] = {}
    for source, own in (("ts_metrics", set()), ("model_metrics", {"Hostname"})):
        for type_, metrics in config[source].items():
            for metric in metrics:
                labels = set(metric["dimensions"]) | own
                if type_ == "histogram":
                    for end in ("_sum", "_count"):
                        series[metric["name"] + end] = ("counter", labels)
                    series[metric["name"] + "_bucket"] = ("counter", labels | {"le"})
                else:
                    series[metric["name"]] = (type_, labels)
    return series


@cache
def rules() -> list[dict[str, Any]]:
    groups = load("deploy/monitoring/rules/deepfake.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def dashboard() -> dict[str, Any]:
    path = DEPLOY / "monitoring" / "grafana" / "dashboards" / "deepfake.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def queries() -> list[str]:
    """Everything that alert rules and dashboard ask Prometheus."""
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    return [asked["expr"] for asked in (*rules(), *targets)]


def nodes(query: str) -> list[Any]:
    """All parts of a PromQL expression; ValueError when it is none."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    return found


def selected(query: str) -> set[str]:
    """The names of the series that an expression reads."""
    names = set()
    for node in nodes(query):
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            names.add(node.name)
    return names
