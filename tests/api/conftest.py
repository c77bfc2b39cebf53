from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.requests import Client, serving
from tests.memory.memories import unique_tenant


@pytest.fixture(scope="session")
def service_on_sqlite(
    starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """The whole service on a new SQLite store, which all tests share."""
    path = tmp_path_factory.mktemp("store") / "memory.db"
    with serving(starter_bundle, f"sqlite:///{path}") as client:
        yield client


@pytest.fixture
def http(service_on_sqlite: Client) -> Client:
    """The service as a tenant sees it that has nothing yet."""
    service_on_sqlite.enter(unique_tenant())
    return service_on_sqlite
