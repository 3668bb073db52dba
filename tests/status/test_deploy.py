"""deploy/: the alert rules and the dashboard are valid, and name metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from offset_common.relay.close_reason import CloseReason
from tests.status.promtool import run_promtool
from tests.status.relays import RelayWithStatus
from tests.support.process import ROOT

RULES = ROOT / "deploy/prometheus/alerts.yml"
RULE_TESTS = ROOT / "deploy/prometheus/alerts_test.yml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text("utf-8"))
METRIC = re.compile(r"\b(?:offset_relay|process)_[a-z_]+\b")
GRID_WIDTH = 24


def expressions() -> list[str]:
    """Return the queries of the dashboard."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def metrics(relay: RelayWithStatus) -> set[str]:
    """The names of all samples of a relay, and of those in docs/status.md that only a fleet has."""
    pytest.importorskip("prometheus_client", reason="needs prometheus-client")
    of_fleet = re.findall(r"`(offset_relay_fleet_\w+)", (ROOT / "docs/status.md").read_text("utf-8"))
    return {*re.findall(r"^(\w+)", relay.get("/metrics").text, re.MULTILINE), *of_fleet}


def test_promtool_accepts_the_rules() -> None:
    run_promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_promtool_runs_the_tests_of_the_rules() -> None:
    run_promtool("test", "rules", RULE_TESTS)


@pytest.mark.parametrize("place", ["rules", "dashboard"])
def test_every_metric_in_use_exists(place: str, metrics: set[str]) -> None:
    text = RULES.read_text("utf-8") if place == "rules" else "\n".join(expressions())
    named = set(METRIC.findall(text))
    assert len(named) > 5
    assert named - metrics == set()


def test_reasons_in_the_rules_exist() -> None:
    named = {
        reason
        for group in re.findall(r'reason=~?"([^"]+)"', RULES.read_text("utf-8"))
        for reason in group.split("|")
    }
    assert named
    assert named <= {reason.name.lower() for reason in CloseReason}


@pytest.mark.parametrize("expression", expressions())
def test_queries_are_valid(expression: str) -> None:
    """A rule made of the query is valid, once Grafana has replaced its variables."""
    query = re.sub(r"\$__\w+", "5m", expression).replace("$job", "j").replace("$instance", "i")
    rule = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": query}]}]}
    run_promtool("check", "rules", "/dev/stdin", stdin=json.dumps(rule))


def test_the_dashboard_has_what_grafana_imports() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time", "refresh"} <= set(DASHBOARD)
    assert "id" not in DASHBOARD, "Grafana chooses it"
    variables = [each["name"] for each in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]


def test_panels_have_a_place_of_their_own() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_WIDTH
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own


def test_panels_use_the_chosen_data_source() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["title"] and panel["targets"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"]
