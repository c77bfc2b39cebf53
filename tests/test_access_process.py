"""Who may do what, where it takes a running service to see it."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from service.keys import SCOPES, add_key
from tests.service_process import ServiceProcess, clean_environment, running_service

RECEIVE_TIMEOUT_SECONDS = 1


class Operator:
    """Has a service that runs in a folder, and its API keys."""

    def __init__(self, service: ServiceProcess, folder: Path) -> None:
        self.service = service
        self.file = folder / "keys.json"

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "service", "keys", *arguments, "--api-keys", str(self.file)],
            cwd=self.file.parent,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=True,
        )

    def get(self, path: str, key: str) -> httpx.Response:
        return httpx.get(self.service.url + path, headers={"Authorization": f"Bearer {key}"})

    def connect(self, *lines: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.service.port), timeout=60)
        connection.sendall("\r\n".join(lines).encode())
        return connection


@pytest.fixture(scope="module")
def operator(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("service")
    add_key(folder / "keys.json", tenant="nobody", scopes=["admin"])
    flags = ["--model", str(starter_bundle), "--api-keys", "keys.json"]
    flags += ["--receive-timeout-seconds", str(RECEIVE_TIMEOUT_SECONDS)]
    with running_service(folder, *flags) as service:
        yield Operator(service, folder)


@pytest.fixture(scope="module")
def key(operator: Operator) -> str:
    """A key that allows everything."""
    return add_key(operator.file, tenant="acme", scopes=SCOPES)[1]


def test_a_running_service_knows_keys_that_come_and_go(operator: Operator) -> None:
    added = operator.run("add", "--tenant", "acme", "--scope", "read", "--name", "butler")
    secret = added.stdout.strip()
    assert operator.get("/memories", secret).status_code == 200
    listed = operator.run("list").stdout
    (line,) = [line for line in listed.splitlines() if line.endswith("butler")]
    assert "tenant acme  read" in line
    assert secret not in listed
    revoked = operator.run("revoke", line.split()[0])
    assert operator.get("/memories", secret).status_code == 401
    for change, done in (("add key", added), ("revoke key", revoked)):
        audit = done.stderr.splitlines()[0]
        assert f'action="{change}"' in audit
        assert "tenant=acme" in audit
        assert line.split()[0] in audit


def test_openais_client_understands_what_its_key_lacks(operator: Operator) -> None:
    url = f"{operator.service.url}/v1"

    def embed(key: str) -> None:
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            client.embeddings.create(model="all-minilm-l6-v2", input="tea")

    with pytest.raises(openai.AuthenticationError, match="the API key is not valid"):
        embed("sk-1234")
    _, reader = add_key(operator.file, tenant="acme", scopes=["read"])
    with pytest.raises(openai.PermissionDeniedError, match="the scope embed, got one with read"):
        embed(reader)
    operator.service.wait_for(r"status=403 .* tenant=acme key=" + reader.split("_")[1])
    _, embedder = add_key(operator.file, tenant="acme", scopes=["embed"])
    embed(embedder)


def test_a_body_that_trickles_ends_with_408_and_costs_no_tokens(operator: Operator) -> None:
    added = operator.run(
        *("add", "--tenant", "slow", "--scope", "embed", "--tokens-per-minute", "4")
    )
    secret = added.stdout.strip()
    head = ["POST /v1/embeddings HTTP/1.1", "Host: a", f"X-API-Key: {secret}"]
    for length in ("Content-Length: 10000", "Transfer-Encoding: chunked"):
        with closing(operator.connect(*head, length, "", "")) as connection:
            answer = b""
            for _ in range(400):
                connection.sendall(b"1\r\n{\r\n" if "chunked" in length else b"{")
                time.sleep(0.05)
                connection.setblocking(False)
                try:
                    answer = connection.recv(10_000)
                    break
                except BlockingIOError:
                    connection.settimeout(60)
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b"took too long to arrive" in answer
            connection.settimeout(60)
            assert connection.recv(1) == b""
    headers = {"X-API-Key": secret}
    url = f"{operator.service.url}/v1/embeddings"
    assert httpx.post(url, json={"input": "tea"}, headers=headers).status_code == 200
    assert httpx.post(url, json={"input": "tea"}, headers=headers).status_code == 429


def test_a_body_that_takes_long_but_keeps_coming_is_taken(operator: Operator, key: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"input": "tea", "user": "'
        for _ in range(8):
            yield b"a" * 32 * 1024
            time.sleep(RECEIVE_TIMEOUT_SECONDS / 4)
        yield b'"}'

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"{operator.service.url}/v1/embeddings"
    assert httpx.post(url, content=pieces(), headers=headers).status_code == 200


def test_a_chunked_body_is_bounded_while_it_arrives(operator: Operator, key: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 20)

    url = f"{operator.service.url}/memories"
    headers = {"Authorization": f"Bearer {key}"}
    response = httpx.post(url, content=endless(), headers=headers)
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"


def test_who_deletes_and_imports_is_audited(operator: Operator, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "audited"}
    with httpx.Client(base_url=operator.service.url, headers=headers) as client:
        memories = [{"content": f"note {n}", "id": f"n{n}", "user_id": "eve"} for n in range(5)]
        client.post("/memories/batch", json={"memories": memories})
        client.post("/relations", json={"source": "n0", "target": "n1"})
        dump = client.get("/export").content
        client.delete("/memories/n4")
        client.post("/memories/delete", json={"filter": {"id": "n3"}, "dry_run": True})
        client.post("/memories/delete", json={"filter": {"id": "n3"}})
        client.delete("/relations", params={"source": "n0", "target": "n1"})
        client.delete("/users/eve")
        client.post("/import", content=dump)
    audited = [line for line in operator.service.log.splitlines() if " audit " in line]
    counts = re.findall(r"audit action=(\S+) .* count=(\d+)", "\n".join(audited))
    deletes = [("delete", count) for count in ("1", "1", "1", "3")]
    assert counts == [*deletes, ("import", "5")]
    for line in audited:
        assert f'by="key {key.split("_")[1]}"' in line
        assert "tenant=acme" in line
        assert "request_id=audited" in line


def test_no_key_is_in_a_log_or_an_answer(operator: Operator) -> None:
    """Whatever fails: what a client sent as its key comes back nowhere."""
    secrets: list[str] = []
    answers: list[str] = []
    bodies: list[Any] = [None, b"{", b'{"input": 1}', b'{"input": "tea", "model": "x"}', b"\xff"]
    with httpx.Client(base_url=operator.service.url) as client:
        openapi = client.get("/docs/openapi.json").json()
        for scopes in (SCOPES[1:2], SCOPES):
            _, secret = add_key(operator.file, tenant="acme", scopes=scopes)
            secrets += [secret, f"{secret[:-8]}AAAAAAAA", f"sk-{secret[-30:]}"]
        for secret in secrets:
            for headers in (
                {"Authorization": f"Bearer {secret}"},
                {"Authorization": secret},
                {"Authorization": f"Token {secret}"},
                {"Authorization": f"Basic {secret}"},
                {"X-API-Key": f"{secret} {secret}"},
            ):
                for path, operations in openapi["paths"].items():
                    for method in operations:
                        body = bodies[len(answers) % len(bodies)]
                        response = client.request(method, path, content=body, headers=headers)
                        answers.append(str(response.headers) + response.text)
                answers.append(client.get("/nowhere", headers=headers).text)
    seen = "\n".join([*answers, operator.service.log])
    for secret in secrets:
        assert secret[-40:-20] not in seen
        assert secret[-20:] not in seen
    for key in json.loads(operator.file.read_text())["keys"]:
        assert key["digest"] not in seen
        assert key["salt"] not in seen
