from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.memory.filters import EVERYTHING, Filter
from service.memory.matrix import Effects, Matrix, MatrixRow, coded, merge
from service.memory.matrix_search import Numbers, nearest, selected_rows
from service.memory.matrix_snapshot import read_snapshot, write_snapshot
from service.memory.model import Embedding
from service.memory.store import SIMILARITY_DECIMALS, Selection
from tests.memory.memories import NOW

Answer = list[tuple[float, int, int]]  # similarity, created_at, n; by these, the highest first


class World:
    """A matrix, and the embeddings and rows that it should have, of one tenant."""

    def __init__(self, dimensions: int) -> None:
        self.matrix = Matrix(dimensions)
        self.embeddings: dict[int, Embedding] = {}
        self.created: dict[int, int] = {}
        self.change = 0

    def publish(self, effects: Effects) -> None:
        self.change += 1
        self.matrix.publish(self.change, effects)

    def put(self, n: int, embedding: Embedding, created: int = 0) -> None:
        self.embeddings[n], self.created[n] = embedding, created
        self.publish({(1, n): row(n, embedding, created)})

    def put_all(self, embeddings: npt.NDArray[np.float32], created: Sequence[int]) -> None:
        numbers = range(len(self.embeddings), len(self.embeddings) + len(embeddings))
        for n, embedding, time in zip(numbers, embeddings, created, strict=True):
            self.embeddings[n], self.created[n] = embedding, time
        self.publish(
            {(1, n): row(n, self.embeddings[n], self.created[n]) for n in numbers},
        )

    def touch(self, n: int, created: int) -> None:
        """Change a memory but for its embedding."""
        self.created[n] = created
        self.publish({(1, n): row(n, None, created)})

    def drop(self, n: int) -> None:
        del self.embeddings[n], self.created[n]
        self.publish({(1, n): None})

    def search(self, query: Embedding, limit: int) -> Answer:
        """The answer of the matrix, the last of several that are equal by number."""
        view = self.matrix.view(1, self.change)
        assert view is not None
        rows = selected_rows(view, Selection(tenant="t", now=NOW, as_of=None), no_numbers)
        found, similarities = nearest(
            view, rows, query, limit=limit, read_embeddings=self.read_embeddings
        )
        numbers = view.columns["n"][found].tolist()
        answer = [
            (similarity, self.created[n], n)
            for similarity, n in zip(similarities.tolist(), numbers, strict=True)
        ]
        return sorted(answer, reverse=True)[:limit]

    def scan(self, query: Embedding, limit: int) -> Answer:
        """The answer of comparing all embeddings."""
        answer = [
            (cosine(embedding, query), self.created[n], n)
            for n, embedding in self.embeddings.items()
        ]
        return sorted(answer, reverse=True)[:limit]

    def read_embeddings(self, numbers: Numbers) -> npt.NDArray[np.float32]:
        return np.array([self.embeddings[n] for n in numbers.tolist()])


def no_numbers(filter_: Filter) -> Numbers:
    raise AssertionError(f"{filter_} is not asked for")


def cosine(one: Embedding, other: Embedding) -> float:
    first, second = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.round(first @ second / lengths, SIMILARITY_DECIMALS)) + 0.0


def row(n: int, embedding: Embedding | None, created: int = 0, **fields: Any) -> MatrixRow:
    code, deviation = None, 0.0
    if embedding is not None:
        codes, deviations = coded(embedding[np.newaxis])
        code, deviation = codes[0].tobytes(), float(deviations[0])
    given: dict[str, Any] = {
        "updated_at": created,
        "valid_from": created,
        "valid_to": None,
        "expires_at": None,
        "importance": 0.5,
        "memory_type": "note",
        "context": None,
        "user_id": None,
        "agent_id": None,
        "session_id": None,
    } | fields
    return MatrixRow(n=n, created_at=created, code=code, deviation=deviation, **given)


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "touch", "drop"]),
        st.integers(0, 40),  # the memory
        st.integers(0, 5),  # its embedding
        st.integers(0, 2),  # when it was created
    ),
    max_size=120,
)


@given(steps, st.integers(0, 5), st.integers(1, 12))
@settings(max_examples=100)
def test_search_is_a_comparison_of_all_embeddings_after_any_changes(
    changes: list[tuple[str, int, int, int]], query: int, limit: int
) -> None:
    embeddings = unit(np.random.default_rng(0).normal(size=(6, 8)))
    world = World(8)
    for kind, n, which, created in changes:
        if kind == "put":
            world.put(n, embeddings[which], created)
        elif n in world.embeddings and kind == "touch":
            world.touch(n, created)
        elif n in world.embeddings:
            world.drop(n)
    assert world.search(embeddings[query], limit) == world.scan(embeddings[query], limit)


@pytest.mark.parametrize("dimensions", [4, 64, 768])
@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_codes_lose_none_of_the_nearest(dimensions: int, spread: float) -> None:
    random = np.random.default_rng(0)
    center = random.normal(size=dimensions)
    world = World(dimensions)
    world.put_all(
        unit(center + spread * random.normal(size=(3_000, dimensions))),
        random.integers(0, 3, 3_000).tolist(),
    )
    for query in unit(center + spread * random.normal(size=(5, dimensions))):
        assert world.search(query, 10) == world.scan(query, 10)


def test_of_many_equal_embeddings_the_newest_are_found() -> None:
    world = World(16)
    same = unit(np.random.default_rng(0).normal(size=16))
    created = np.random.default_rng(1).permutation(3_000).tolist()
    world.put_all(np.tile(same, (3_000, 1)), created)
    assert [time for _, time, _ in world.search(same, 10)] == list(range(2_999, 2_989, -1))


def test_no_cosine_with_a_code_is_off_by_more_than_its_deviation() -> None:
    random = np.random.default_rng(0)
    embeddings = unit(random.normal(size=(500, 32)) ** 3)
    codes, deviations = coded(embeddings)
    approximate = unit(codes.astype(np.float64)).astype(np.float64)
    queries = unit(random.normal(size=(50, 32))).astype(np.float64)
    errors = np.abs(queries @ approximate.T - queries @ embeddings.T.astype(np.float64))
    assert (errors <= deviations + 1e-6).all()
    # The bound is reached by a query in the direction in which the code is off.
    off = unit(embeddings - approximate).astype(np.float64)
    reached = np.abs(np.einsum("ij,ij->i", off, embeddings - approximate))
    assert np.allclose(reached, deviations, atol=1e-5)


def test_a_view_does_not_change_under_its_reader() -> None:
    world = World(4)
    for n in range(20):
        world.put(n, unit(np.eye(4)[n % 4]), n)
    view = world.matrix.view(1, world.change)
    assert view is not None
    before = [view.codes.copy(), view.alive.copy(), *(c.copy() for c in view.columns.values())]
    for n in range(20):
        world.touch(n, 100)
    for n in range(10):
        world.drop(n)
    after = [view.codes, view.alive, *view.columns.values()]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_there_is_no_view_of_a_change_that_others_came_after() -> None:
    world = World(4)
    world.put(1, unit(np.eye(4)[0]))
    world.put(2, unit(np.eye(4)[1]))
    assert world.matrix.view(1, 1) is None
    assert world.matrix.view(1, 2) is not None


def test_an_effect_without_a_code_keeps_the_code_of_the_one_before() -> None:
    embedding = unit(np.eye(4)[0])
    effects: Effects = {(1, 1): row(1, embedding)}
    merge(effects, {(1, 1): row(1, None, 7), (1, 2): None})
    assert effects == {(1, 1): row(1, embedding, 7), (1, 2): None}


def test_a_snapshot_gives_the_same_answers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    world = World(8)
    world.put_all(unit(random.normal(size=(200, 8))), random.integers(0, 9, 200).tolist())
    for n in range(0, 200, 3):
        world.drop(n)
    query = unit(random.normal(size=8))
    before = world.search(query, 20)
    write_snapshot(tmp_path / "snapshot", "token", world.matrix)
    read = read_snapshot(tmp_path / "snapshot", "token", 8)
    assert read is not None
    change, world.matrix = read
    assert change == world.change
    assert world.search(query, 20) == before
    world.put(1_000, query, 5)
    assert world.search(query, 1) == [(1.0, 5, 1_000)]


def test_a_snapshot_has_the_names_that_memories_have(tmp_path: Path) -> None:
    matrix = Matrix(4)
    embedding = unit(np.eye(4)[0])
    matrix.publish(1, {(7, 1): row(1, embedding, user_id="ada"), (7, 2): row(2, embedding)})
    matrix.publish(2, {(7, 3): row(3, embedding, user_id="eve", context="work")})
    matrix.publish(3, {(7, 1): None})
    write_snapshot(tmp_path / "snapshot", "token", matrix)
    read = read_snapshot(tmp_path / "snapshot", "token", 4)
    assert read is not None
    view = read[1].view(7, 3)
    assert view is not None
    assert [view.names["user_id"].names[n] for n in view.columns["user_id"]] == [None, "eve"]
    assert view.names["user_id"].names == [None, "eve"]
    assert [view.names["context"].names[n] for n in view.columns["context"]] == [None, "work"]


def test_a_snapshot_that_is_damaged_or_not_the_one_is_not_read(tmp_path: Path) -> None:
    world = World(8)
    world.put_all(unit(np.random.default_rng(0).normal(size=(20, 8))), [0] * 20)
    path = tmp_path / "snapshot"
    assert read_snapshot(path, "token", 8) is None
    write_snapshot(path, "token", world.matrix)
    assert read_snapshot(path, "another token", 8) is None
    assert read_snapshot(path, "token", 16) is None
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"\0", b"?" + whole[1:], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        assert read_snapshot(path, "token", 8) is None
    for position in range(8, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        assert read_snapshot(path, "token", 8) is None


def test_a_snapshot_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.mkdir()
    with pytest.raises(OSError, match="snapshot"):
        write_snapshot(path, "token", Matrix(8))
    assert list(tmp_path.iterdir()) == [path]


def test_everything_is_selected_by_the_empty_filter() -> None:
    world = World(4)
    world.put(1, unit(np.eye(4)[0]))
    view = world.matrix.view(1, 1)
    assert view is not None
    selection = Selection(tenant="t", now=NOW, as_of=None, filter=EVERYTHING)
    assert selected_rows(view, selection, no_numbers).tolist() == [0]
