import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from service.telemetry.logs import TextFormatter
from service.telemetry.running_request import RunningRequest, running_request
from tests.telemetry.log_lines import logged

logger = logging.getLogger("tests.logs")


@pytest.fixture
def request_of_a_trace() -> Iterator[None]:
    token = running_request.set(RunningRequest("mine", trace_id="0af7"))
    yield
    running_request.reset(token)


def test_a_line_for_people_begins_with_time_and_level() -> None:
    with logged("tests.logs", TextFormatter()) as lines:
        logger.info("opened %s", "memory.db", extra={"fields": {"memories": 3, "tenant": None}})
    day, _, level, *words = lines().split()
    assert datetime.fromisoformat(day)
    assert level == "INFO"
    assert words == ["opened", "memory.db", "memories=3"]


def test_a_line_for_machines_is_one_object() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with logged("tests.logs") as lines:
        logger.warning("opened %s", "memory.db", extra={"fields": {"memories": 3, "tenant": None}})
    entry = json.loads(lines())
    assert before <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    assert entry == {
        "level": "WARNING",
        "logger": "tests.logs",
        "message": "opened memory.db",
        "memories": 3,
    }


@pytest.mark.usefixtures("request_of_a_trace")
def test_every_line_within_a_request_has_its_id_and_its_trace() -> None:
    with logged("tests.logs") as as_json, logged("tests.logs", TextFormatter()) as as_text:
        logger.info("working")
    entry = json.loads(as_json())
    assert (entry["request_id"], entry["trace_id"]) == ("mine", "0af7")
    assert as_text().rstrip().endswith("working request_id=mine trace_id=0af7")


def test_an_exception_is_in_its_entry() -> None:
    with logged("tests.logs") as as_json, logged("tests.logs", TextFormatter()) as as_text:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("failed", extra={"fields": {"tries": 2}})
    assert as_json().count("\n") == 1
    assert "ValueError: two\nlines" in json.loads(as_json())["exception"]
    assert as_text().splitlines()[0].endswith("failed tries=2")
    assert as_text().splitlines()[-2:] == ["ValueError: two", "lines"]


@pytest.mark.parametrize("value", ["a\nb", "a b", "ü", "", "\x1b[31m"])
def test_no_value_looks_like_another_line_or_another_value(value: str) -> None:
    with logged("tests.logs") as as_json, logged("tests.logs", TextFormatter()) as as_text:
        logger.info("got", extra={"fields": {"path": value}})
    assert as_text().split(" got ")[1] == f"path={json.dumps(value)}\n"
    assert json.loads(as_json())["path"] == value


def test_what_is_no_json_is_written_as_text() -> None:
    with logged("tests.logs") as lines:
        logger.info("got", extra={"fields": {"at": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert json.loads(lines())["at"] == "2026-01-01 00:00:00+00:00"
