"""The dashboard for Grafana shows what the service exposes, and all of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.api.requests import remember, serving
from tests.service_process import REPOSITORY
from tests.telemetry.exposition import Scrape, scrape

DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# What Grafana puts in a query's place, by what may stand there.
VARIABLES = {"$__rate_interval": "5m", "$job": "memory", "$instance": "memory:8080"}

# What Prometheus adds to each sample.
TARGET_LABELS = {"job", "instance"}


def queries() -> Iterator[Any]:
    """Every query of the dashboard, parsed."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield promql_parser.parse(query)


def selectors() -> list[promql_parser.VectorSelector]:
    """Every place in a query that names a metric."""
    found: list[promql_parser.VectorSelector] = []

    def look(expression: object) -> None:
        if isinstance(expression, promql_parser.VectorSelector):
            found.append(expression)

    for query in queries():
        promql_parser.walk(query, look)
    return found


@pytest.fixture(scope="module")
def metrics(prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """The metrics of a service that has done a bit of everything."""
    path = tmp_path_factory.mktemp("store") / "memory.db"
    with serving(prompted_bundle, f"sqlite:///{path}", cache_bytes=10**6) as client:
        remember(client, "Ada drinks tea.")
        assert client.get("/nowhere").status_code == 404
        return scrape(client)


def test_a_dashboard_asks_for_metrics_that_are_there(metrics: Scrape) -> None:
    assert {selector.name for selector in selectors()} <= metrics.names


def test_it_selects_by_labels_that_those_metrics_have(metrics: Scrape) -> None:
    for selector in selectors():
        assert selector.name
        (labels, *_) = metrics.labels(selector.name)
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert TARGET_LABELS <= asked <= TARGET_LABELS | labels.keys()


def test_it_shows_every_metric_of_the_service(metrics: Scrape) -> None:
    of_histogram = re.compile(r"_(bucket|count|sum)$")
    shown = {of_histogram.sub("", selector.name or "") for selector in selectors()}
    ours = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.families
        if family.name.startswith("memory_")
    }
    assert ours <= shown


def test_every_panel_asks_the_data_source_that_is_chosen() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]
    for panel in PANELS:
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_have_ids_of_their_own_and_lie_beside_one_another() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))
