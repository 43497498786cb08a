"""The dashboard and the alert rules of `deploy/monitoring`: they speak of metrics and labels that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferd.runtime.telemetry.table import METRICS, Kind

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: the alert rules are not read")

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
NAME = re.compile(r"\b(?:inferd|gen_ai|process)_[a-z_]+\b(?!\s*[=!]=?~?\s*\")(?!\")")
SELECTED = re.compile(r"([a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
BY = re.compile(r"by \(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job", "le"}
TOLD = {
    name: {*metric.labels}
    for metric in METRICS
    for name in (
        [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        if metric.kind is Kind.HISTOGRAM
        else [metric.name]
    )
}
LABELS = OF_PROMETHEUS.union(*TOLD.values())


def expressions() -> Iterator[tuple[str, str]]:
    board = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']}-{target['refId']}", target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


ALL = [*expressions()]


def names_in(expression: str) -> set[str]:
    """The metrics of an expression: what stands outside of selectors and of lists of labels."""
    return {found[0] for found in NAME.finditer(BY.sub("", re.sub(r"\{[^}]*\}", "", expression)))}


@pytest.mark.parametrize("expression", [pytest.param(expression, id=name) for name, expression in ALL])
def test_every_metric_and_label_exists(expression: str) -> None:
    """Each name in an expression is one that a kernel tells, and each label one that this metric has."""
    names = names_in(expression)
    assert names
    assert names <= TOLD.keys()
    for name, selector in SELECTED.findall(expression):
        if name in TOLD:
            assert {*LABEL.findall(selector)} <= TOLD[name] | OF_PROMETHEUS
    for listed in BY.findall(expression):
        assert {label.strip() for label in listed.split(",")} <= LABELS


def test_each_metric_of_the_kernel_can_be_seen() -> None:
    """The dashboard and the alerts leave out no metric, so that a new one is thought of."""
    seen = {name for _, expression in ALL for name in names_in(expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen}
    told = {metric.name for metric in METRICS if metric.name.startswith(("inferd_", "gen_ai_"))} - {"inferd_build_info"}
    left_out = told - shown - {"inferd_tasks_sent_total", "inferd_leases_ended_total", "inferd_store_failures_total"}
    assert left_out - {"inferd_epoch", "inferd_spans_sent_total"} == set()


def test_alerts_are_told_apart_and_say_what_to_do() -> None:
    """Each rule has a name of its own, a severity, a summary and a fix; what it names in braces are labels."""
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "fix"}
        assert {*re.findall(r"\$labels\.([a-z_]+)", str(rule["annotations"]))} <= LABELS


def test_panels_have_places_of_their_own() -> None:
    """No panel lies over another, and each has an id and words for people."""
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in panels}) == len(panels)
