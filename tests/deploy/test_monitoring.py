"""Alert rules and dashboard: that what they ask for exists, and that the alerts fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from typing import Any

import promql_parser
import pytest

from tests.deploy.files import (
    DEPLOY,
    ROOT,
    dashboard,
    exported,
    nodes,
    queries,
    rules,
    selected,
)

MONITORING = DEPLOY / "monitoring"
DASHBOARD = dashboard()
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
OF_PROMETHEUS = {"up", "ALERTS"}
QUERIES = queries()


@pytest.mark.parametrize("query", QUERIES)
def test_every_series_exists(query: str) -> None:
    assert selected(query) <= set(exported()) | RECORDED | OF_PROMETHEUS


def test_a_series_that_does_not_exist_would_be_found() -> None:
    query = "sum(rate(deepfake_verdict_total[5m])) / on () deepfake_errors_total"
    assert selected(query) - set(exported()) == {"deepfake_verdict_total"}
    with pytest.raises(ValueError, match="parenthesis"):
        nodes("sum(rate(deepfake_verdicts_total[5m])")


@pytest.mark.parametrize("query", QUERIES)
def test_rates_are_taken_of_counters_and_by_labels_that_they_have(query: str) -> None:
    for node in nodes(query):
        if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase"):
            (series,) = selected(node.args[0].prettify())
            assert exported()[series][0] == "counter", series
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            for series in selected(node.expr.prettify()) & set(exported()):
                assert set(node.modifier.labels) <= exported()[series][1] | {"job", "instance"}
        if isinstance(node, promql_parser.VectorSelector) and node.name in exported():
            labels = {matcher.name for matcher in node.matchers.matchers}
            assert labels <= exported()[node.name][1] | {"job", "instance"}


def test_every_metric_of_the_detector_is_shown() -> None:
    shown = set().union(*map(selected, QUERIES))
    for series in exported():
        if series.startswith("deepfake_"):
            name = re.sub(r"_(sum|count|bucket)$", "", series)
            assert any(other.startswith(name) for other in shown), name


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_the_page_what_to_do(name: str) -> None:
    assert ALERTS[name]["labels"]["severity"] in ("critical", "warning", "info")
    assert ALERTS[name]["annotations"]["summary"].endswith(".")
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert all(cell.strip() for cell in rows[0].split("|")[1:-1])


def test_the_page_names_no_alert_that_is_not_there() -> None:
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(Deepfake\w+)` \|", page, re.MULTILINE)) == set(ALERTS)


def test_every_panel_asks_the_provisioned_source_and_says_what_it_shows() -> None:
    source = (MONITORING / "grafana" / "datasources" / "prometheus.yaml").read_text()
    assert f"uid: {PANELS[0]['datasource']['uid']} " in source
    for panel in PANELS:
        assert panel["description"]
        assert panel["targets"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == PANELS[0]["datasource"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_no_panel_hides_another() -> None:
    for a, b in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_alerts_fire_when_they_should() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.yaml", "drift.yaml"],
        cwd=ROOT / "tests" / "deploy",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
