import pytest

from service.telemetry.tracing import trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


# As https://www.w3.org/TR/trace-context/#traceparent-header has them.
@pytest.mark.parametrize(
    "given",
    [
        f"00-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-00",
        f"cc-{TRACE}-b7ad6b7169203331-01-what-the-future-will-be-like",
    ],
)
def test_the_trace_of_a_request_is_read(given: str) -> None:
    assert trace_id_of(given) == TRACE


@pytest.mark.parametrize(
    "given",
    [
        "",
        TRACE,
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-0000000000000000-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
        f"cc-{TRACE}-b7ad6b7169203331-01.more",
        f"00-{TRACE[:-1]}-b7ad6b7169203331-01",
        f"00-{TRACE}-b7ad6b7169203331-zz",
    ],
)
def test_what_names_no_trace_is_left_alone(given: str) -> None:
    assert trace_id_of(given) is None
