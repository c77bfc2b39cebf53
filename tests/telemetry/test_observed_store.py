from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidInput, StoreUnavailable
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel, Selection
from service.telemetry.observed_store import OPERATIONS, observed_store

pytestmark = pytest.mark.anyio

MODEL = EmbeddingModel("tiny", "0" * 64, 2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SELECTION = Selection(tenant="t", now=NOW, as_of=None)

Calls = list[tuple[str, bool]]


async def test_every_operation_of_a_store_is_there_and_its_name_is_told(tmp_path: Path) -> None:
    calls: Calls = []
    async with open_sqlite_store(tmp_path / "memory.db", MODEL) as store:
        observed = observed_store(store, lambda name, seconds, failed: calls.append((name, failed)))
        assert await observed.count(SELECTION) == 0
        assert await observed.tenants() == []
        assert (await observed.info()).embedding_model == MODEL
        assert all(callable(getattr(observed, name)) for name in OPERATIONS)
    assert calls == [("count", False), ("tenants", False), ("info", False)]


async def test_a_store_that_does_not_answer_has_failed(tmp_path: Path) -> None:
    calls: Calls = []
    async with open_sqlite_store(tmp_path / "memory.db", MODEL) as store:
        observed = observed_store(store, lambda name, seconds, failed: calls.append((name, failed)))
    with pytest.raises(StoreUnavailable):
        await observed.ping()
    assert calls == [("ping", True)]


async def test_a_request_that_is_refused_is_no_failure_of_the_store(tmp_path: Path) -> None:
    calls: Calls = []
    async with open_sqlite_store(tmp_path / "memory.db", MODEL) as store:
        observed = observed_store(store, lambda name, seconds, failed: calls.append((name, failed)))
        with pytest.raises(InvalidInput):
            await observed.search_embedding(SELECTION, np.zeros(3, np.float32), limit=1)
    assert calls == [("search_embedding", False)]
