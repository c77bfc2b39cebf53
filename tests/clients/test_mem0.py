"""mem0's client in front of the service, as it is in front of mem0's platform."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.keys import SCOPES, add_key
from tests.memory.memories import unique_tenant
from tests.neo4j_server import wipe
from tests.service_process import running_service
from tests.stores import NEO4J, GetServer, store_names

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

# Makes a client of a tenant that has nothing yet, or of a key.
Connect = Callable[..., Any]

TALK = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "I drink tea.", "name": "ada"},
    {"role": "assistant", "content": [{"type": "text", "text": "Tea, noted."}]},
]
TIMEOUT = 300  # as the client has it

NEVER = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module", autouse=True)
def without_telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package writes into the home folder, and reports its use, unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEM0_TELEMETRY", "False")
        patch.setenv("MEM0_DIR", str(tmp_path_factory.mktemp("mem0")))
        yield


class Blocking:
    """The asynchronous client, each call of which is waited for."""

    def __init__(self, runner: asyncio.Runner, client: Any) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *arguments, **named: self._runner.run(_awaited(method, arguments, named))


async def _awaited(method: Any, arguments: Any, named: Any) -> Any:
    return await method(*arguments, **named)


def connecting(url: str, keys: Path, *, asynchronous: bool) -> Iterator[Connect]:
    from mem0 import AsyncMemoryClient, MemoryClient

    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())

        def connect(key: str | None = None, **of_key: Any) -> Any:
            if key is None:
                _, key = add_key(keys, **({"tenant": unique_tenant(), "scopes": SCOPES} | of_key))
            if asynchronous:
                http = httpx.AsyncClient(timeout=TIMEOUT)
                opened.callback(lambda: runner.run(http.aclose()))
                client = AsyncMemoryClient(host=f"{url}/mem0", api_key=key, client=http)
                return Blocking(runner, client)
            blocking = opened.enter_context(httpx.Client(timeout=TIMEOUT))
            return MemoryClient(host=f"{url}/mem0", api_key=key, client=blocking)

        yield connect


@pytest.fixture(scope="module")
def service_with_keys(
    starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("mem0-service")
    keys = folder / "keys.json"
    add_key(keys, tenant="nobody", scopes=SCOPES)
    with running_service(
        folder, "--model", str(starter_bundle), "--api-keys", str(keys)
    ) as service:
        yield service.url, keys


@pytest.fixture
def connect(service_with_keys: tuple[str, Path]) -> Iterator[Connect]:
    url, keys = service_with_keys
    yield from connecting(url, keys, asynchronous=False)


@pytest.fixture
def client(connect: Connect) -> Any:
    return connect()


def memories_of(answer: Any) -> list[str]:
    return [memory["memory"] for memory in answer["results"]]


def added(client: Any, text: str, **fields: Any) -> str:
    """The id of a memory that is kept of a text."""
    (result,) = client.add(text, **fields)["results"]
    assert result["event"] == "ADD"
    id: str = result["id"]
    return id


def use(client: Any) -> None:
    """What a user of mem0 does in a day."""
    ids = [result["id"] for result in client.add(TALK, user_id="ada")["results"]]
    tea = client.get(ids[0])
    assert (tea["memory"], tea["role"], tea["actor_id"]) == ("I drink tea.", "user", "ada")
    added(client, "The printer is out of toner.", user_id="bob", metadata={"room": 7})
    found = client.search("What does Ada drink?", filters={"user_id": "ada"}, top_k=1)
    assert memories_of(found) == ["I drink tea."]
    assert client.update(ids[0], text="I drink coffee now.")["id"] == ids[0]
    found = client.search("tea", filters={"user_id": "ada"})
    assert sorted(memories_of(found)) == ["I drink coffee now.", "Tea, noted."]
    events = [
        (event["event"], event["old_memory"], event["new_memory"])
        for event in client.history(ids[0])
    ]
    assert events == [
        ("ADD", None, "I drink tea."),
        ("UPDATE", "I drink tea.", "I drink coffee now."),
    ]
    assert memories_of(client.get_all(filters={"metadata": {"room": 7}})) == [
        "The printer is out of toner."
    ]
    client.batch_update([{"memory_id": ids[1], "text": "Coffee, noted."}])
    client.delete(ids[0])
    assert memories_of(client.get_all(filters={"user_id": "ada"})) == ["Coffee, noted."]
    client.batch_delete([{"memory_id": ids[1]}])
    added(client, "I drink rum.", user_id="ada")
    client.delete_all(user_id="ada")
    entities = [(each["type"], each["name"]) for each in client.users()["results"]]
    assert entities == [("user", "bob")]
    client.reset()
    assert client.get_all(filters={})["count"] == 0


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_day_with_mem0(asynchronous: bool, service_with_keys: tuple[str, Path]) -> None:
    url, keys = service_with_keys
    for connect in connecting(url, keys, asynchronous=asynchronous):
        use(connect())


@pytest.mark.parametrize("store", store_names())
def test_a_day_with_mem0_on_every_store(
    store: str, starter_bundle: Path, tmp_path: Path, running_server: GetServer
) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, tenant="nobody", scopes=SCOPES)
    flags = ["--model", str(starter_bundle), "--api-keys", str(keys)]
    with ExitStack() as stack:
        if store.startswith(NEO4J):
            server = running_server(store.removeprefix(NEO4J))
            wipe(server)
            stack.callback(wipe, server)
            stack.enter_context(pytest.MonkeyPatch.context()).setenv(
                "NEO4J_PASSWORD", server.password
            )
            flags += ["--store", server.uri, "--neo4j-username", server.username]
        service = stack.enter_context(running_service(tmp_path, *flags))
        for connect in connecting(service.url, keys, asynchronous=False):
            use(connect())


def test_what_is_kept_comes_back_with_every_field(client: Any) -> None:
    day = (datetime.now(UTC) + timedelta(days=30)).date()
    scope = {"user_id": "ada", "agent_id": "cook", "app_id": "kitchen", "run_id": "monday"}
    said = datetime(2025, 3, 1, 12, tzinfo=UTC)
    (result,) = client.add(
        "I drink tea.",
        **scope,
        metadata={"mood": "good", "cups": 2},
        expiration_date=day.isoformat(),
        timestamp=int(said.timestamp()),
        infer=False,
    )["results"]
    memory = client.get(result["id"])
    assert {name: memory[name] for name in scope} == scope
    assert memory["metadata"] == {"mood": "good", "cups": 2}
    assert memory["expiration_date"] == day.isoformat()
    assert datetime.fromisoformat(memory["created_at"]) == said
    changed = client.update(result["id"], text="I drink rum.", metadata={"mood": "better"})
    assert {name: changed[name] for name in scope} == scope
    assert changed["metadata"] == {"mood": "better"}
    assert changed["expiration_date"] == day.isoformat()
    assert datetime.fromisoformat(changed["created_at"]) == said
    assert client.update(result["id"], expiration_date=None)["expiration_date"] is None


def test_the_same_words_are_kept_once_in_one_scope(client: Any) -> None:
    id = added(client, "I drink tea.", user_id="ada")
    (again,) = client.add("I drink tea.", user_id="ada")["results"]
    assert (again["id"], again["event"]) == (id, "NONE")
    assert added(client, "I drink tea.", user_id="bob") != id


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"user_id": "ada"}, "a c"),
        ({"AND": [{"user_id": "ada"}, {"agent_id": "cook"}]}, "c"),
        ({"OR": [{"user_id": "bob"}, {"run_id": "monday"}]}, "b c"),
        ({"NOT": [{"user_id": "bob"}]}, "a c"),
        ({"agent_id": "*"}, "c"),
        ({"user_id": {"in": ["bob", "carol"]}}, "b"),
        ({"user_id": {"ne": "bob"}}, "a c"),
        ({"user_id": {"nin": ["bob"]}}, "a c"),
        ({"app_id": "desk"}, "b"),
        ({"metadata": {"rank": {"gte": 2}}}, "b c"),
        ({"rank": {"gt": 1, "lt": 3}}, "b"),
        ({"metadata": {"colour": "red"}}, "a"),
        ({"created_at": {"gte": "2025-01-02", "lte": "2025-01-02"}}, "b"),
        ({"created_at": {"gt": "2025-01-02"}}, "c"),
        ({"created_at": {"lt": "2025-01-02T12:00:00Z"}}, "a"),
        ({"timestamp": {"gte": datetime(2025, 1, 3, tzinfo=UTC).timestamp()}}, "c"),
        ({"created_at": "2025-01-01"}, "a"),
        ({"created_at": {"ne": "2025-01-01"}}, "b c"),
        ({"expiration_date": {"lte": "2099-12-31"}}, "a"),
        ({"expiration_date": "2099-12-31"}, "a"),
        ({"expiration_date": "*"}, "a"),
    ],
    ids=str,
)
def test_filters_mean_what_they_mean_there(
    connect: Connect, filters: dict[str, Any], expected: str
) -> None:
    client = connect()
    noon = datetime(2025, 1, 1, 12, tzinfo=UTC)
    a: dict[str, Any] = {"user_id": "ada", "expiration_date": "2099-12-31"}
    b = {"user_id": "bob", "app_id": "desk", "metadata": {"rank": 2}}
    c = {"user_id": "ada", "agent_id": "cook", "run_id": "monday", "metadata": {"rank": 3}}
    a["metadata"] = {"rank": 1, "colour": "red"}
    for number, (text, fields) in enumerate({"a": a, "b": b, "c": c}.items()):
        moment = noon + timedelta(days=number)
        added(client, text, timestamp=int(moment.timestamp()), **fields)
    assert sorted(memories_of(client.get_all(filters=filters))) == expected.split()
    assert sorted(memories_of(client.search("letters", filters=filters))) == expected.split()


def test_pages_have_every_memory_once(client: Any) -> None:
    ids = {added(client, f"note {number}", user_id="ada") for number in range(7)}
    pages = [client.get_all(filters={"user_id": "ada"}, page=n, page_size=3) for n in range(1, 5)]
    assert [len(page["results"]) for page in pages] == [3, 3, 1, 0]
    assert {memory["id"] for page in pages for memory in page["results"]} == ids
    assert {page["count"] for page in pages} == {7}
    assert [bool(page["next"]) for page in pages] == [True, True, False, False]
    assert [bool(page["previous"]) for page in pages] == [False, True, True, True]
    assert "page=2" in pages[0]["next"]


def test_batches_change_and_delete_all_or_nothing(client: Any) -> None:
    from mem0.exceptions import MemoryNotFoundError

    ids = [added(client, f"note {number}", user_id="ada") for number in range(3)]
    client.batch_update([{"memory_id": id, "text": f"text of {id}"} for id in ids[:2]])
    assert client.get(ids[1])["memory"] == f"text of {ids[1]}"
    with pytest.raises(MemoryNotFoundError):
        client.batch_update([{"memory_id": ids[0], "text": "x"}, {"memory_id": NEVER, "text": "x"}])
    with pytest.raises(MemoryNotFoundError):
        client.batch_delete([{"memory_id": ids[0]}, {"memory_id": NEVER}])
    assert client.get(ids[0])["memory"] == f"text of {ids[0]}"
    client.batch_delete([{"memory_id": id} for id in ids[:2]])
    assert memories_of(client.get_all(filters={"user_id": "ada"})) == ["note 2"]


def test_an_updated_memory_is_one_memory(client: Any) -> None:
    id = added(client, "I drink tea.", user_id="ada")
    for drink in ("rum", "water"):
        client.update(id, text=f"I drink {drink}.")
    found = client.get_all(filters={"user_id": "ada"})["results"]
    assert [(memory["id"], memory["memory"]) for memory in found] == [(id, "I drink water.")]
    assert [event["new_memory"] for event in client.history(id)] == [
        "I drink tea.",
        "I drink rum.",
        "I drink water.",
    ]
    assert memories_of(client.get_all(filters={"memory_ids": [id]})) == ["I drink water."]
    client.delete(id)
    assert client.get_all(filters={})["count"] == 0


def test_only_what_is_named_is_deleted(client: Any) -> None:
    from mem0.exceptions import ValidationError

    for user in ("ada", "bob"):
        added(client, "I drink tea.", user_id=user, agent_id="cook")
    added(client, "nobody's")
    for wrong, reason in (({}, "what to delete"), ({"user": "ada"}, "unknown field `user`")):
        with pytest.raises(ValidationError, match=reason):
            client.delete_all(**wrong)
    client.delete_all(filters={"user_id": "ada"})
    assert client.get_all(filters={})["count"] == 2
    client.delete_all(user_id="*")
    assert memories_of(client.get_all(filters={})) == ["nobody's"]
    everything = dict.fromkeys(("user_id", "agent_id", "app_id", "run_id"), "*")
    client.delete_all(**everything)
    assert client.get_all(filters={})["count"] == 0


def test_entities_are_counted_and_deleted(client: Any) -> None:
    added(client, "a", user_id="ada", agent_id="cook")
    added(client, "b", user_id="ada", run_id="monday", app_id="desk")
    entities = {
        (each["type"], each["name"]): each["total_memories"] for each in client.users()["results"]
    }
    assert entities == {
        ("agent", "cook"): 1,
        ("app", "desk"): 1,
        ("run", "monday"): 1,
        ("user", "ada"): 2,
    }
    client.delete_users(app_id="desk")
    assert memories_of(client.get_all(filters={})) == ["a"]


def test_a_tenant_does_not_see_anothers_memories(connect: Connect) -> None:
    from mem0.exceptions import AuthenticationError, MemoryNotFoundError

    ada, bob = connect(), connect(scopes=("read",))
    id = added(ada, "I drink tea.", user_id="ada")
    assert bob.get_all(filters={"user_id": "ada"})["count"] == 0
    with pytest.raises(MemoryNotFoundError):
        bob.get(id)
    with pytest.raises(AuthenticationError, match="the scope write"):
        bob.add("I drink rum.", user_id="ada")
    with pytest.raises(ValueError, match="the API key is not valid"):
        connect("no-key")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda c: c.get_all(filters={"keywords": {"contains": "x"}}), "filters.keywords: cannot"),
        (lambda c: c.get_all(filters={"user_id": {"contains": "x"}}), "parts of texts"),
        (lambda c: c.get_all(filters={"OR": [{"created_at": {"gte": "then"}}]}), r"OR\[0\]"),
        (lambda c: c.search("x", filters={"rank": {"like": 1}}), "filters.rank.like"),
        (lambda c: c.search("x", top_k=0), "top_k"),
        (lambda c: c.add("x", user_ids="ada"), "user_ids"),
        (lambda c: c.add(" ", user_id="ada"), "messages"),
        (lambda c: c.add("x", expiration_date="soon"), "expiration_date: expected a date"),
        (lambda c: c.add([{"role": "user", "content": [{"type": "image_url"}]}]), "pictures"),
        (lambda c: c.update(NEVER, text="x"), "there is no memory"),
        (lambda c: c.search("x", show_expired=True), "show_expired cannot be done here"),
        (lambda c: c.add("x", custom_instructions="y"), "needs a language model"),
        (lambda c: c.feedback(NEVER, "POSITIVE"), "nothing learns from feedback"),
        (lambda c: c.get_webhooks("p"), "no webhooks"),
        (lambda c: c.create_memory_export("{}"), "GET /export"),
        (lambda c: c.get_summary(), "needs a language model"),
        (lambda c: c.get_profile("ada"), "needs a language model"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    client: Any, call: Callable[[Any], Any], reason: str
) -> None:
    from mem0.exceptions import MemoryError as Mem0Error

    with pytest.raises(Mem0Error, match=reason):
        call(client)


def test_the_paths_of_the_open_source_server_are_there(
    connect: Connect, service_with_keys: tuple[str, Path]
) -> None:
    url, keys = service_with_keys
    _, key = add_key(keys, tenant=unique_tenant(), scopes=SCOPES)
    with httpx.Client(base_url=f"{url}/mem0", headers={"X-API-Key": key}) as http:
        body = {"messages": [{"role": "user", "content": "I drink tea."}], "user_id": "ada"}
        (memory,) = http.post("/memories", json=body).raise_for_status().json()["results"]
        found = http.post("/search", json={"query": "tea", "filters": {"user_id": "ada"}})
        assert memories_of(found.json()) == ["I drink tea."]
        path = f"/memories/{memory['id']}"
        assert http.put(path, json={"text": "I drink rum."}).json()["memory"] == "I drink rum."
        assert len(http.get(f"{path}/history").json()) == 2
        listed = http.get("/memories", params={"user_id": "ada", "top_k": 5}).json()
        assert memories_of(listed) == ["I drink rum."]
        assert http.delete(path).status_code == 200
        assert http.get(path).status_code == 404
        assert http.post("/reset").status_code == 200
        assert http.get("/configure").status_code == 501


def test_dates_are_whole_days(client: Any) -> None:
    today = datetime.now(UTC).date()
    id = added(client, "I drink tea.", user_id="ada", expiration_date=today.isoformat())
    assert date.fromisoformat(client.get(id)["expiration_date"]) == today
