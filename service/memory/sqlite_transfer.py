"""What the embedded store does to take over memories as they are, and to exchange embeddings."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import Conflict, EmbeddingModelMismatch
from service.memory.model import (
    SUPERSEDES,
    Record,
    Relation,
)
from service.memory.sqlite_deletes import forget
from service.memory.sqlite_relations import is_there, replace_relation
from service.memory.sqlite_rows import (
    Prepared,
    find,
    insert,
    link,
    own_tenant_number,
    prepare,
    prepare_embeddings,
    rewrite,
    tenant_number,
)
from service.memory.sqlite_schema import NEXT_EMBEDDINGS, read_meta, same_model, shown, write_meta
from service.memory.sqlite_writer import Operation, Transaction
from service.memory.store import EmbeddingModel, Loaded


def load(tenant: str, records: Sequence[Record], dimensions: int) -> Operation[list[Loaded]]:
    """Records made ready, and what writes them as they are but for their supersession.

    Raises:
        InvalidInput: an embedding is not fit to be kept.
    """
    embeddings = prepare_embeddings([record.embedding for record in records], dimensions)
    prepared = [
        prepare(record.memory, embedding)
        for record, embedding in zip(records, embeddings, strict=True)
    ]

    def operation(transaction: Transaction) -> list[Loaded]:
        number = own_tenant_number(transaction.connection, tenant)
        return [_load(transaction, number, ready) for ready in prepared]

    return operation


def _load(transaction: Transaction, tenant: int, prepared: Prepared) -> Loaded:
    memory = prepared.memory
    there = find(transaction.connection, tenant, memory.id)
    if not there:
        alone = msgspec.structs.replace(memory, supersedes=None, superseded_by=None)
        insert(transaction, tenant, prepared._replace(memory=alone))
        return "created"
    taken = msgspec.structs.replace(
        memory, supersedes=there.memory.supersedes, superseded_by=there.memory.superseded_by
    )
    if taken == there.memory:
        return "unchanged"
    if (taken.version, taken.updated_at) < (there.memory.version, there.memory.updated_at):
        return "kept"
    rewrite(transaction, tenant, there.n, prepared._replace(memory=taken))
    return "replaced"


def load_relations(tenant: str, relations: Sequence[Relation]) -> Operation[int]:
    """What writes relations as they are, supersession too; gives how many have both memories."""

    def operation(transaction: Transaction) -> int:
        connection = transaction.connection
        number = tenant_number(connection, tenant)
        if number is None:
            return 0
        written = 0
        for relation in relations:
            if not is_there(connection, number, relation.source):
                continue
            if not is_there(connection, number, relation.target):
                continue
            if relation.relation_type == SUPERSEDES:
                _supersede(transaction, number, relation.source, relation.target)
            else:
                replace_relation(connection, number, relation)
            written += 1
        return written

    return operation


def _supersede(transaction: Transaction, tenant: int, newer: str, older: str) -> None:
    # What either was linked to before is so no more: a memory has one successor at most, and is
    # one to one memory at most.
    connection = transaction.connection
    source = find(connection, tenant, newer)
    assert source is not None
    if source.memory.supersedes not in (None, older):
        _relink(transaction, tenant, source.memory.supersedes, superseded_by=None)
    target = find(connection, tenant, older)
    assert target is not None
    if target.memory.superseded_by not in (None, newer):
        _relink(transaction, tenant, target.memory.superseded_by, supersedes=None)
    _relink(transaction, tenant, newer, supersedes=older)
    _relink(transaction, tenant, older, superseded_by=newer)


def _relink(transaction: Transaction, tenant: int, id: str | None, **links: str | None) -> None:
    stored = find(transaction.connection, tenant, id) if id else None
    if stored:
        link(transaction, tenant, stored.n, msgspec.structs.replace(stored.memory, **links))


def start_re_embedding(model: EmbeddingModel) -> Operation[tuple[str, str] | None]:
    """What begins to exchange all embeddings for those of a model; gives where to go on behind."""

    def operation(transaction: Transaction) -> tuple[str, str] | None:
        connection = transaction.connection
        target = read_meta(connection, "target", EmbeddingModel)
        if target is None:
            write_meta(connection, "target", model)
        elif not same_model(target, model):
            raise EmbeddingModelMismatch(
                f"re-embedding with {shown(target)} has begun and is not finished; finish it "
                f"before exchanging the embeddings for those of {shown(model)}"
            )
        return read_meta(connection, "place", tuple[str, str])

    return operation


def replace_embeddings(
    tenant: str, ids: Sequence[str], embeddings: npt.NDArray[np.float32]
) -> Operation[None]:
    """What keeps embeddings of the model to come, and the place that this has come to."""

    def operation(transaction: Transaction) -> None:
        connection = transaction.connection
        target = read_meta(connection, "target", EmbeddingModel)
        if target is None:
            raise Conflict("re-embedding has not begun")
        prepared = prepare_embeddings(embeddings, target.dimensions)
        number = tenant_number(connection, tenant)
        for id, embedding in zip(ids, prepared, strict=True):
            row = connection.execute(
                "SELECT n FROM memory WHERE tenant = ? AND id = ?", (number, id)
            ).fetchone()
            if row:
                connection.execute(
                    "INSERT OR REPLACE INTO next_embedding VALUES (?, ?)",
                    (*row, embedding.embedding),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO next_code VALUES (?, ?, ?)",
                    (*row, embedding.code, embedding.deviation),
                )
        if ids:
            write_meta(connection, "place", (tenant, ids[-1]))

    return operation


def finish_re_embedding(transaction: Transaction) -> EmbeddingModel:
    """Make the store one of the model to come, and give that.

    Memories that were forgotten meanwhile have no embedding of it, and are deleted.

    Raises:
        Conflict: re-embedding has not begun, or other memories lack an embedding.
    """
    connection = transaction.connection
    target = read_meta(connection, "target", EmbeddingModel)
    if target is None:
        raise Conflict("re-embedding has not begun")
    lacking = connection.execute(
        "SELECT tenant, n, expires_at FROM memory WHERE n NOT IN (SELECT n FROM next_embedding)"
    ).fetchall()
    if unfinished := sum(expires_at is None for _, _, expires_at in lacking):
        raise Conflict(
            f"{unfinished:,} memories have no embedding of {shown(target)} yet; go on with "
            "re-embedding"
        )
    for tenant, n, _ in lacking:
        forget(transaction, tenant, [n])
    for table in ("embedding", "code"):
        connection.execute(f"DROP TABLE {table}")
        connection.execute(f"ALTER TABLE next_{table} RENAME TO {table}")
    for statement in NEXT_EMBEDDINGS:
        connection.execute(statement)
    write_meta(connection, "model", target)
    for name in ("target", "place", "snapshot"):
        write_meta(connection, name, None)
    return target
