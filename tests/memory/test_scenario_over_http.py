"""What the service finds and recalls of the written scenario, on every store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.requests import Client, answered, search, serving, supersede
from tests.memory.scenario import Scenario, ScenarioMemory, load_scenario
from tests.neo4j_server import wipe
from tests.stores import NEO4J, GetServer, store_names


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario()


@pytest.fixture(scope="module", params=store_names())
def remembering(
    request: pytest.FixtureRequest,
    scenario: Scenario,
    starter_bundle: Path,
    running_server: GetServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """The service after it was told the whole scenario."""
    settings: dict[str, Any] = {}
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memory.db"
    server = None
    if request.param.startswith(NEO4J):
        server = running_server(request.param.removeprefix(NEO4J))
        wipe(server)
        store = server.uri
        settings = {"neo4j_username": server.username, "neo4j_password": server.password}
    try:
        with serving(starter_bundle, store, **settings) as client:
            tell(client, scenario)
            yield client
    finally:
        if server is not None:
            wipe(server)


def tell(client: Client, scenario: Scenario) -> None:
    """Remember what supersedes nothing, and then what supersedes it, in order."""
    first = [memory for memory in scenario.memories if memory.supersedes is None]
    bodies = [body_of(memory) | {"session_id": memory.session_id} for memory in first]
    batch = client.post("/memories/batch", json={"memories": bodies})
    assert answered(batch)["counts"] == {"created": len(first)}
    for memory in scenario.memories:
        if memory.supersedes is not None:
            supersede(client, memory.supersedes, **body_of(memory))


def body_of(memory: ScenarioMemory) -> dict[str, Any]:
    return {
        "id": memory.key,
        "content": memory.content,
        "memory_type": memory.memory_type,
        "tags": memory.tags,
        "context": memory.context,
    }


def test_what_was_told_is_kept_with_its_history(remembering: Client, scenario: Scenario) -> None:
    stats = answered(remembering.get("/stats"))
    assert (stats["memories"], stats["current"]) == (200, len(scenario.current()))
    for memory in scenario.memories:
        if memory.supersedes is not None:
            old = answered(remembering.get(f"/memories/{memory.supersedes}"))
            assert old["superseded_by"] == memory.key


def test_the_answers_are_among_the_first_five_results(
    remembering: Client, scenario: Scenario
) -> None:
    shares = {}
    for question in scenario.questions:
        found = search(remembering, question.query, limit=5)
        shares[question.query] = len(set(found) & set(question.relevant)) / len(question.relevant)
    recall = np.mean(list(shares.values()))
    print(f"recall@5 {recall:.3f}; not all found:")
    print("\n".join(query for query, share in shares.items() if share < 1))
    assert recall >= 0.9


def test_questions_of_what_was_never_told_recall_nothing(
    remembering: Client, scenario: Scenario
) -> None:
    contexts = {
        query: answered(remembering.post("/recall", json={"query": query}))["context"]
        for query in scenario.off_topic
    }
    empty = sum(not context for context in contexts.values())
    print(f"{empty} of {len(contexts)} off-topic questions recall nothing; these do:")
    print("\n".join(f"{query} -> {context}" for query, context in contexts.items() if context))
    assert empty >= 0.9 * len(contexts)
