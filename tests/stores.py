"""The stores that tests run on: SQLite, and each version of Neo4j that is to be tested."""

from collections.abc import Callable

from tests.neo4j_server import Neo4jServer, versions_to_test

NEO4J = "neo4j-"

GetServer = Callable[[str], Neo4jServer]


def store_names() -> list[str]:
    """sqlite, and neo4j-VERSION for each version."""
    return ["sqlite", *(f"{NEO4J}{version}" for version in versions_to_test())]
