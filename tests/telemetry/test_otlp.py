import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service import __version__
from service.errors import InvalidSettings
from service.telemetry.tracing import open_tracing
from tests.api.requests import Client, remember, serving
from tests.telemetry.collector import Collector, attributes_of, running_collector
from tests.telemetry.log_lines import logged

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collected(
    fragile_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Collector]:
    """What a service has sent that was asked a few things and is closed."""
    path = tmp_path_factory.mktemp("store") / "memory.db"
    with running_collector() as collector:
        settings = {"otel_exporter_otlp_endpoint": collector.url}
        with serving(fragile_bundle, f"sqlite:///{path}", **settings) as client:
            ask(client)
        yield collector


def ask(client: Client) -> None:
    traced = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
    client.post("/v1/embeddings", json={"input": ["red", "blue"]}, headers=traced)
    remember(client, "Ada drinks tea.")
    client.get("/health/ready")
    client.get("/tags", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})  # not to be recorded
    client.post("/v1/embeddings", json={"input": "a loud volcano"})


def children_of(parent: Span, collector: Collector) -> list[Span]:
    return [span for span in collector.spans if span.parent_span_id == parent.span_id]


def test_a_request_is_a_span_of_the_trace_that_it_comes_from(collected: Collector) -> None:
    (span,) = [span for span in collected.spans if span.parent_span_id.hex() == PARENT]
    assert span.name == "POST /v1/embeddings"
    assert span.trace_id.hex() == TRACE
    assert span.kind == Span.SPAN_KIND_SERVER
    assert attributes_of(span) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "memory.request_id": "mine",
        "memory.texts": 2,
        "memory.tokens": 6,
    }


def test_a_request_without_a_trace_begins_one(collected: Collector) -> None:
    span = collected.named("POST /memories")
    assert not span.parent_span_id
    assert span.trace_id.hex() not in (TRACE, "0" * 32)


def test_the_stages_of_a_request_follow_one_another_within_it(collected: Collector) -> None:
    span = collected.named("POST /memories")
    stages = children_of(span, collected)
    assert [stage.name for stage in stages] == [
        "tokenization",
        "queue",
        "inference",
        "store remember",
    ]
    assert {stage.trace_id for stage in stages} == {span.trace_id}
    # Clocks of two kinds are compared, of which one may be set meanwhile: a millisecond is granted.
    times = [span.start_time_unix_nano - 1_000_000]
    for stage in stages:
        times += [stage.start_time_unix_nano, stage.end_time_unix_nano]
    times.append(span.end_time_unix_nano)
    assert all(earlier - 1_000_000 <= later for earlier, later in pairwise(times))


def test_probes_and_what_is_not_sampled_are_not_sent(collected: Collector) -> None:
    assert {span.name for span in collected.spans if span.kind == Span.SPAN_KIND_SERVER} == {
        "POST /v1/embeddings",
        "POST /memories",
    }


def test_a_request_that_fails_is_marked(collected: Collector) -> None:
    statuses = {
        attributes_of(span)["http.response.status_code"]: span.status.code
        for span in collected.spans
        if span.name == "POST /v1/embeddings"
    }
    assert statuses == {200: Status.STATUS_CODE_UNSET, 500: Status.STATUS_CODE_ERROR}


def test_the_spans_are_those_of_this_service(collected: Collector) -> None:
    assert set(collected.paths) == {"/v1/traces"}
    assert collected.resource["service.name"] == "ai-memory-service"
    assert collected.resource["service.version"] == __version__


def test_a_service_has_the_name_that_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "memory-of-the-support-team")
    with running_collector() as collector:
        with open_tracing(f"{collector.url}/") as tracing:
            assert tracing
            tracing.begin({}).end("GET /", {}, failed=False)
        assert collector.resource["service.name"] == "memory-of-the-support-team"
        assert collector.paths == ["/v1/traces"]


def test_a_log_line_has_the_trace_that_is_sent(starter_bundle: Path, tmp_path: Path) -> None:
    with running_collector() as collector, logged("service.api") as lines:
        settings = {"otel_exporter_otlp_endpoint": collector.url}
        with serving(starter_bundle, f"sqlite:///{tmp_path}/memory.db", **settings) as client:
            client.get("/tags")
        assert json.loads(lines())["trace_id"] == collector.named("GET /tags").trace_id.hex()


def test_a_collector_that_is_not_there_holds_nothing_up(
    starter_bundle: Path, tmp_path: Path
) -> None:
    settings = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}
    with serving(starter_bundle, f"sqlite:///{tmp_path}/memory.db", **settings) as client:
        assert client.get("/tags").status_code == 200


def test_without_the_extra_the_refusal_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "service.telemetry.otlp", raising=False)
    with (
        pytest.raises(InvalidSettings, match=r"OTEL_EXPORTER_.* uv sync --extra otel"),
        open_tracing("http://127.0.0.1:4318"),
    ):
        pass


def test_without_an_endpoint_nothing_is_recorded() -> None:
    with open_tracing(None) as tracing:
        assert tracing is None
