"""What the embedded store finds: by embedding and by filter, through the matrix, and by words."""

import sqlite3
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.memory.filters import Filter
from service.memory.matrix import Matrix, View
from service.memory.matrix_search import Numbers, nearest, selected_rows
from service.memory.model import Embedding, from_microseconds
from service.memory.sqlite_filters import numbers_passing, selected
from service.memory.sqlite_rows import number_list, scope
from service.memory.sqlite_schema import current_change
from service.memory.store import WORD_CANDIDATES, Match, Selection
from service.memory.words import Candidate, WordMatch, rank_by_words


def count(
    connection: sqlite3.Connection, tenant: int, matrix: Matrix, selection: Selection
) -> int | None:
    """What `MemoryStore.count` gives; None if the matrix is ahead of the connection."""
    view = matrix.view(tenant, current_change(connection))
    return None if view is None else len(_selected_rows(connection, tenant, view, selection))


def search_embedding(
    connection: sqlite3.Connection,
    tenant: int,
    matrix: Matrix,
    selection: Selection,
    embedding: Embedding,
    limit: int,
) -> list[Match] | None:
    """What `MemoryStore.search_embedding` gives; None if the matrix is ahead of the connection."""
    view = matrix.view(tenant, current_change(connection))
    if view is None:
        return None

    def read_embeddings(numbers: Numbers) -> npt.NDArray[np.float32]:
        rows = connection.execute(
            "SELECT n, embedding FROM embedding WHERE n IN (SELECT value FROM json_each(?))",
            (number_list(numbers.tolist()),),
        )
        blobs = dict(rows.fetchall())
        joined = b"".join(blobs[n] for n in numbers.tolist())
        return np.frombuffer(joined, "<f4").reshape(len(numbers), -1)

    rows = _selected_rows(connection, tenant, view, selection)
    if limit < 1 or not len(rows):
        return []
    found, similarities = nearest(
        view, rows, embedding, limit=limit, read_embeddings=read_embeddings
    )
    numbers = view.columns["n"][found].tolist()
    ids = dict(
        connection.execute(
            "SELECT n, id FROM memory WHERE n IN (SELECT value FROM json_each(?))",
            (number_list(numbers),),
        ).fetchall()
    )
    created = view.columns["created_at"][found].tolist()
    ordered = sorted(
        (-similarity, -time, ids[n])
        for n, similarity, time in zip(numbers, similarities.tolist(), created, strict=True)
    )
    return [Match(id, -negative) for negative, _, id in ordered[:limit]]


def search_words(
    connection: sqlite3.Connection,
    tenant: int,
    selection: Selection,
    words: Sequence[str],
    limit: int,
) -> list[WordMatch]:
    """What `MemoryStore.search_words` gives."""
    if limit < 1 or not words:
        return []
    condition = selected(selection, tenant)
    any_word = " OR ".join('"' + word.replace('"', '""') + '"' for word in words)
    match = f"words : ({any_word})"
    if connection.execute("SELECT 1 FROM tenant WHERE number <> ? LIMIT 1", (tenant,)).fetchone():
        match = f"scope : {scope(tenant)} AND {match}"
    # In bm25 the scope has no weight: it says nothing of how relevant a memory is.
    rows = connection.execute(
        f"""
        SELECT m.id, m.created_at, t.words FROM (
            SELECT m.n FROM fts CROSS JOIN memory m ON m.n = fts.rowid
            WHERE fts MATCH ? AND {condition.sql}
            ORDER BY bm25(fts, 1, 0), m.created_at DESC, m.id LIMIT ?
        )
        JOIN memory m USING (n) JOIN text t USING (n)
        """,
        (
            match,
            *condition.parameters,
            max(limit, WORD_CANDIDATES),
        ),
    )
    candidates = [Candidate(id, from_microseconds(time), kept) for id, time, kept in rows]
    return rank_by_words(words, candidates)[:limit]


def _selected_rows(
    connection: sqlite3.Connection, tenant: int, view: View, selection: Selection
) -> Numbers:
    def find_numbers(filter_: Filter) -> Numbers:
        statement = numbers_passing(filter_, tenant)
        rows = connection.execute(statement.sql, statement.parameters)
        return np.array([n for (n,) in rows], np.int64)

    return selected_rows(view, selection, find_numbers)
