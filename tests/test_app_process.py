import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest

from service.errors import InvalidSettings
from service.keys import add_key
from service.server import bind_for_callers
from service.settings import Settings
from tests.service_process import (
    DEADLINE_SECONDS,
    ServiceProcess,
    clean_environment,
    running_service,
)

MISSING = ("torch", "transformers", "optimum", "sentence_transformers", "export", "onnx")


def different_texts(count: int, *, first: int = 0) -> list[str]:
    """Texts of a hundred tokens or a few more."""
    return [f"{number} " + "word " * 97 for number in range(first, first + count)]


@pytest.fixture(scope="module")
def service(
    prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, "--model", str(prompted_bundle)) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_gets_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="prompted-query", input=["red planet", "blue"])
    assert [item.index for item in answer.data] == [0, 1]
    assert np.linalg.norm([item.embedding for item in answer.data], axis=1) == pytest.approx(1)
    assert answer.usage.prompt_tokens == 11
    assert answer.model == "prompted-query"


def test_openais_default_of_base64_and_lists_are_the_same(client: openai.OpenAI) -> None:
    by_default = client.embeddings.create(model="prompted", input="red planet")
    as_list = client.embeddings.create(
        model="prompted", input="red planet", encoding_format="float"
    )
    assert by_default.data[0].embedding == pytest.approx(as_list.data[0].embedding)


def test_openais_client_gets_shorter_embeddings_and_our_fields(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="prompted",
        input="word " * 1_000,
        dimensions=128,
        extra_body={"input_type": "query", "truncate": True},
    )
    assert len(answer.data[0].embedding) == 128
    assert answer.model_extra == {"truncated": [0]}


def test_openais_client_lists_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["prompted", "prompted-query", "prompted-document"]
    assert client.models.retrieve("prompted").id == "prompted"


def test_openais_client_understands_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as empty:
        client.embeddings.create(model="prompted", input="")
    assert (empty.value.param, empty.value.code) == ("input", "empty_input")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="gpt", input="a")
    assert unknown.value.code == "model_not_found"


@pytest.mark.anyio
async def test_openais_async_client_gets_each_request_its_own(service: ServiceProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:

        async def embed(text: str) -> list[float]:
            answer = await client.embeddings.create(model="prompted", input=text)
            return answer.data[0].embedding

        texts = [f"text number {n} " + "and more " * (n % 9) for n in range(50)]
        alone = [await embed(text) for text in texts[:5]]
        together = await asyncio.gather(*map(embed, texts))
        for one, other in zip(alone, together, strict=False):
            assert np.dot(one, other) >= 0.9999


@pytest.mark.anyio
async def test_a_full_queue_is_a_rate_limit_to_openais_client(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    limits = ("--max-queued-tokens", "5000")
    with running_service(tmp_path, "--model", str(prompted_bundle), *limits) as service:
        url = f"{service.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            batches = [different_texts(30, first=first) for first in range(0, 180, 30)]
            answers = await asyncio.gather(
                *(client.embeddings.create(model="prompted", input=batch) for batch in batches),
                return_exceptions=True,
            )
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert 0 < len(refused) < 6
            for error in refused:
                assert isinstance(error, openai.RateLimitError)
                assert int(error.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"input": ' + b"[" * 100_000, 400),
        (json.dumps({"input": "a" * 10_000_000}).encode(), 400),
        (json.dumps({"input": ["a"] * 100_000}).encode(), 400),
        (b'{"input": "\\ud800"}', 400),
        (b'{"input": "a\\u0000b"}', 200),
        (b" " * (40 << 20), 413),
    ],
    ids=[
        "nothing",
        "half",
        "deep",
        "deep input",
        "10 MB text",
        "100,000 texts",
        "surrogate",
        "NUL",
        "40 MiB",
    ],
)
def test_bad_input_is_answered_and_the_service_goes_on(
    service: ServiceProcess, content: bytes, status: int
) -> None:
    response = httpx.post(f"{service.url}/v1/embeddings", content=content, timeout=DEADLINE_SECONDS)
    assert response.status_code == status
    assert response.json().keys() >= ({"data"} if status == 200 else {"error"})
    assert httpx.get(f"{service.url}/health/ready").status_code == 200


def test_a_refusal_reaches_a_client_that_still_sends(service: ServiceProcess) -> None:
    response = httpx.post(
        f"{service.url}/nowhere", content=b"x" * (20 << 20), timeout=DEADLINE_SECONDS
    )
    assert response.status_code == 404


def test_the_service_is_one_process_without_pytorch(
    service: ServiceProcess, client: openai.OpenAI
) -> None:
    client.embeddings.create(model="prompted", input="so that everything is loaded")
    process = psutil.Process(service.process.pid)
    assert process.children() == []
    mapped = [Path(region.path).name for region in process.memory_maps()]
    assert any("onnxruntime" in name for name in mapped)
    assert not [name for name in mapped if "torch" in name]


def test_no_module_of_pytorch_or_the_exporter_is_imported(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    script = f"""
import json, pathlib, sys
import service.command_line
from litestar.testing import TestClient
from service.app import create_app
from service.settings import Settings

settings = Settings(
    model=pathlib.Path({str(prompted_bundle)!r}), store="sqlite:///{tmp_path}/memory.db"
)
with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
    assert client.post("/v1/embeddings", json={{"input": "a"}}).status_code == 200
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean_environment(), capture_output=True, check=True
    )
    modules = json.loads(done.stdout)
    assert "onnxruntime" in modules
    assert set(MISSING).isdisjoint(modules)


def test_a_client_that_leaves_while_it_sends_is_no_error(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    with running_service(tmp_path, "--model", str(prompted_bundle)) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
            assert connection.recv(1_000).startswith(b"HTTP/1.1 100 Continue")
            connection.sendall(b'{"input')
        assert service.end() == 0
        assert "ERROR" not in service.log


def test_a_second_service_on_the_port_is_refused(
    service: ServiceProcess, prompted_bundle: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(prompted_bundle), "--port", str(service.port))
    with running_service(tmp_path, *flags) as second:
        assert second.wait() == 2
        assert f"error: cannot listen on 127.0.0.1:{service.port}" in second.log
        assert "Traceback" not in second.log
    assert httpx.get(f"{service.url}/health/ready").status_code == 200


@pytest.mark.slow
def test_a_port_is_free_again_when_its_service_has_ended(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    with running_service(tmp_path, "--model", str(prompted_bundle)) as first:
        port = first.port
        assert httpx.get(f"{first.url}/health/live").status_code == 200
        assert first.end() == 0
    with running_service(tmp_path, "--model", str(prompted_bundle), "--port", str(port)) as next:
        assert next.port == port


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--host", "0.0.0.0"), "other machines reach 0.0.0.0, and without API keys everyone"),
        (("--api-keys", "none.json"), "the file of API keys none.json cannot be read"),
        (("--model", "nowhere"), "expected a bundle in nowhere"),
        (("--precision", "bf16"), "expected a bf16 variant of prompted"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    prompted_bundle: Path, tmp_path: Path, flags: tuple[str, ...], complaint: str
) -> None:
    with running_service(tmp_path, "--model", str(prompted_bundle), *flags) as service:
        assert service.wait() == 2
        assert service.log.startswith(f"error: {complaint}")
        assert service.log.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1:0"),
        ("0.0.0.0", "other machines reach 0.0.0.0, and without API keys everyone"),
        ("::", "other machines reach ::, and without API keys everyone"),
        ("no such host", "cannot listen on no such host:0"),
        ("a..b", "cannot listen on a..b:0 (not a name of a machine)"),
    ],
)
def test_an_address_for_nobody_or_for_everybody_is_refused(host: str, complaint: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{re.escape(complaint)}"):
        bind_for_callers(Settings(host=host, port=0))


def test_other_machines_are_served_where_there_are_keys(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    add_key(tmp_path / "keys.json", tenant="acme", scopes=["embed"])
    flags = ("--model", str(prompted_bundle), "--host", "0.0.0.0", "--api-keys", "keys.json")
    with running_service(tmp_path, *flags) as service:
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert httpx.get(f"{service.url}/info").status_code == 401


def test_only_trusted_proxies_say_who_their_clients_are(service: ServiceProcess) -> None:
    httpx.get(f"{service.url}/nowhere", headers={"X-Forwarded-For": "203.0.113.9"})
    service.wait_for(r"path=/nowhere .*client=127\.0\.0\.1")


def test_the_log_has_one_line_for_each_event(service: ServiceProcess) -> None:
    for line in service.log.splitlines():
        assert line[:4].isdigit(), line
        assert line.split()[2] in ("INFO", "WARNING"), line
