from hypothesis import given
from hypothesis import strategies as st

from service.embedding.buckets import (
    LENGTHS,
    MOST_CAPTURED_TOKENS,
    STEP,
    TEXTS,
    bucket_for,
    captured_buckets,
)

SHORT = {"longest": 257, "above": 0}
LONG = {"longest": 2_048, "above": 257}
GRAPHS = st.sampled_from([SHORT, LONG, {"longest": 512, "above": 0}])


@given(GRAPHS, st.integers(1, 600), st.data())
def test_a_batch_fits_into_its_bucket(
    graph: dict[str, int], texts: int, data: st.DataObject
) -> None:
    tokens = data.draw(st.integers(graph["above"] + 1, graph["longest"]))
    bucket = bucket_for(texts, tokens, **graph)
    assert bucket.texts >= texts
    assert tokens <= bucket.tokens <= graph["longest"]
    if bucket.graph_id is None:
        assert bucket.texts == texts
        assert bucket.tokens - tokens < STEP
    else:
        assert bucket in captured_buckets(**graph)
        # Never more than twice of either, but for what is less than the smallest.
        assert bucket.texts < 2 * texts
        assert bucket.tokens < 2 * max(tokens, LENGTHS[0])


@given(GRAPHS)
def test_captured_graphs_are_few_and_small(graph: dict[str, int]) -> None:
    buckets = captured_buckets(**graph)
    assert 0 < len(buckets) <= len(TEXTS) * len(LENGTHS)
    assert len({bucket.graph_id for bucket in buckets}) == len(buckets)
    sizes = [bucket.texts * bucket.tokens for bucket in buckets]
    assert max(sizes) <= MOST_CAPTURED_TOKENS
    assert sizes == sorted(sizes, reverse=True)


def test_both_graphs_of_a_model_capture_less_than_forty_shapes() -> None:
    assert len(captured_buckets(**SHORT)) + len(captured_buckets(**LONG)) < 40


def test_a_small_batch_is_captured_and_a_large_one_is_not() -> None:
    assert bucket_for(3, 20, **SHORT).graph_id is not None
    assert bucket_for(1, 300, **LONG).graph_id is not None
    assert bucket_for(64, 200, **SHORT).graph_id is None
    assert bucket_for(8, 2_000, **LONG).graph_id is None
