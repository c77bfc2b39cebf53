import json
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.memory.model import Embedding, Memory, Record, Relation
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel, MemoryStore
from service.memory.transfer import (
    LINES_AT_ONCE,
    MAX_LINE_BYTES,
    Progress,
    dump,
    dump_tenant,
    lines_of,
    load,
)
from tests.memory.memories import DIMENSIONS, MODEL, NOW, at, random_embeddings

pytestmark = pytest.mark.anyio

OTHER_MODEL = EmbeddingModel(name="other", digest="b" * 64, dimensions=DIMENSIONS)


class Texts:
    """Embeds every memory alike, and counts them."""

    def __init__(self) -> None:
        self.embedded: list[str] = []

    async def __call__(self, memories: Sequence[Memory]) -> Sequence[Embedding]:
        self.embedded += [memory.id for memory in memories]
        return [np.eye(1, DIMENSIONS, dtype=np.float32)[0]] * len(memories)


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[MemoryStore]:
    """Two tenants with memories of the same ids, related in a chain, more than go at once."""
    async with open_sqlite_store(tmp_path / "filled.db", MODEL) as store:
        for tenant, count in (("one", LINES_AT_ONCE + 7), ("two", 3)):
            ids = [f"m{number:04}" for number in range(count)]
            records = [
                Record(memory_of(id), embedding)
                for id, embedding in zip(ids, random_embeddings(count), strict=True)
            ]
            for start in range(0, count, LINES_AT_ONCE):
                await store.load(tenant, records[start : start + LINES_AT_ONCE])
            await store.load_relations(
                tenant,
                [
                    Relation(source=source, target=target, relation_type="NEXT", created_at=NOW)
                    for source, target in pairwise(ids)
                ],
            )
        yield store


def memory_of(id: str) -> Memory:
    return Memory(id=id, content=f"the {id}", created_at=NOW, updated_at=NOW, valid_from=NOW)


async def text_of(store: MemoryStore, *, embeddings: bool = True) -> bytes:
    pieces = dump(store, now=NOW, embeddings=embeddings)
    return b"".join([piece async for piece, _ in pieces])


async def lines(text: bytes) -> AsyncIterator[bytes]:
    for line in text.splitlines():
        yield line


async def loaded(
    store: MemoryStore, text: bytes, embed: Texts | None = None, *, tenant: str | None = None
) -> Progress:
    loading = load(
        store,
        lines(text),
        tenant=tenant or "default",
        other_tenants=tenant is None,
        embed=embed or Texts(),
    )
    return [progress async for progress in loading][-1]


async def test_a_dump_of_all_tenants_loads_into_an_empty_store_as_it_was(
    filled: MemoryStore, tmp_path: Path
) -> None:
    text, embed = await text_of(filled), Texts()
    async with open_sqlite_store(tmp_path / "copy.db", MODEL) as copy:
        progress = await loaded(copy, text, embed)
        assert progress.created == LINES_AT_ONCE + 10
        assert progress.relations == LINES_AT_ONCE + 8
        assert progress.lines == text.count(b"\n")
        assert await copy.tenants() == ["one", "two"]
        assert await text_of(copy) == text
    assert embed.embedded == []


async def test_the_pieces_of_a_dump_say_how_many_lines_they_have(filled: MemoryStore) -> None:
    pieces = [piece async for piece in dump_tenant(filled, "one", now=NOW, embeddings=False)]
    assert [count for _, count in pieces] == [LINES_AT_ONCE, 7, LINES_AT_ONCE, 6]
    assert all(text.count(b"\n") == count for text, count in pieces)


async def test_a_relation_is_in_a_dump_only_with_both_its_memories(filled: MemoryStore) -> None:
    remaining = dump_tenant(filled, "two", now=NOW, embeddings=False)
    memories, _ = await anext(remaining)
    await filled.load("two", [Record(memory_of("late"), random_embeddings(1)[0])])
    late = Relation(source="late", target="m0000", relation_type="NEXT", created_at=NOW)
    await filled.relate("two", [late])
    rest = b"".join([piece async for piece, _ in remaining])
    text = memories + rest
    assert (b'"source":"late"' in text) == (b'"id":"late"' in text)


async def test_a_store_of_another_model_embeds_what_it_loads(
    filled: MemoryStore, tmp_path: Path
) -> None:
    text, embed = await text_of(filled), Texts()
    async with open_sqlite_store(tmp_path / "copy.db", OTHER_MODEL) as copy:
        progress = await loaded(copy, text, embed)
    assert progress.embedded == len(embed.embedded) == LINES_AT_ONCE + 10


async def test_only_what_has_no_embedding_is_embedded(filled: MemoryStore, tmp_path: Path) -> None:
    with_some = (await text_of(filled)).splitlines(keepends=True)
    without = json.loads(with_some[3])
    del without["embedding"]
    with_some[3] = json.dumps(without).encode() + b"\n"
    embed = Texts()
    async with open_sqlite_store(tmp_path / "copy.db", MODEL) as copy:
        progress = await loaded(copy, b"".join(with_some), embed)
        (made,) = await copy.embeddings("one", [without["id"]])
    assert embed.embedded == [without["id"]]
    assert progress.embedded == 1
    assert made[0] == 1


async def test_what_was_read_before_a_broken_line_is_written(
    filled: MemoryStore, tmp_path: Path
) -> None:
    before = (await text_of(filled)).splitlines(keepends=True)[: LINES_AT_ONCE + 5]
    async with open_sqlite_store(tmp_path / "copy.db", MODEL) as copy:
        with pytest.raises(InvalidInput, match=f"^line {LINES_AT_ONCE + 6}: "):
            await loaded(copy, b"".join([*before, b"broken\n"]))
        assert (await copy.stats("one", now=NOW)).memories == LINES_AT_ONCE + 3


async def test_a_format_of_the_future_is_refused(filled: MemoryStore, tmp_path: Path) -> None:
    text = (await text_of(filled)).replace(b'"format":1', b'"format":2')
    with pytest.raises(InvalidInput, match="line 1: expected format 1, got 2"):
        await loaded(filled, text)


async def test_lines_that_name_no_tenant_are_of_the_one_that_is_loaded_into(
    filled: MemoryStore, tmp_path: Path
) -> None:
    header, _, *rest = (await text_of(filled)).splitlines()
    text = b"\n".join([header, *rest[:3]])
    async with open_sqlite_store(tmp_path / "copy.db", MODEL) as copy:
        await loaded(copy, text)
        assert await copy.tenants() == ["default"]


async def test_what_is_forgotten_is_not_dumped(filled: MemoryStore) -> None:
    memory = Memory(
        id="gone", content="a", created_at=NOW, updated_at=NOW, valid_from=NOW, expires_at=at(1)
    )
    await filled.load("two", [Record(memory, random_embeddings(1)[0])])
    for moment, there in ((NOW, True), (at(1), False)):
        pieces = dump(filled, now=moment, embeddings=False)
        assert (b'"gone"' in b"".join([piece async for piece, _ in pieces])) == there


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 12)))
async def test_lines_are_the_same_however_the_bytes_come(
    parts: list[bytes], sizes: list[int]
) -> None:
    text = b"\n".join(parts)

    async def chunks() -> AsyncIterator[bytes]:
        rest = text
        for size in sizes:
            yield rest[:size]
            rest = rest[size:]
        yield rest

    assert [line async for line in lines_of(chunks())] == text.split(b"\n")


async def test_a_line_that_no_dump_has_is_refused_before_it_ends() -> None:
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 65_536

    with pytest.raises(InvalidInput, match="expected lines of at most"):
        async for _ in lines_of(chunks()):
            pass
    assert taken <= MAX_LINE_BYTES // 65_536 + 1
