"""A real nginx on loopback, with deploy/nginx.conf as it stands but for ports and certificate."""

import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.service_process import DEADLINE_SECONDS, REPOSITORY, free_port

CONFIGURATION = REPOSITORY / "deploy" / "nginx.conf"

# One process that runs as whoever started it, and keeps its files in its folder.
_AROUND = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{configuration}}}
"""


@contextmanager
def running_nginx(folder: Path, ports: Sequence[int]) -> Iterator[httpx.Client]:
    """A client of an nginx in front of the services on these ports; `base_url` is where."""
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(
        _AROUND.format(folder=folder, configuration=_configuration(folder, port, ports))
    )
    certificate = _make_certificate(folder)
    with (folder / "log").open("w") as log:
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        nginx = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(
            base_url=f"https://localhost:{port}",
            verify=ssl.create_default_context(cafile=certificate),
            timeout=DEADLINE_SECONDS,
        ) as client:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not _answers(client):
                assert nginx.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield client
    finally:
        nginx.kill()
        nginx.wait()


def _configuration(folder: Path, port: int, ports: Sequence[int]) -> str:
    text = CONFIGURATION.read_text()
    servers = re.compile(r"^ *server 127\.0\.0\.1:\d+(.*;)\n", re.MULTILINE)
    parameters = servers.findall(text)[0]
    ours = "".join(f"    server 127.0.0.1:{service}{parameters}\n" for service in ports)
    text = servers.sub("", text).replace("upstream memory {\n", f"upstream memory {{\n{ours}")
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    return text.replace("/etc/nginx/", f"{folder}/")


def _make_certificate(folder: Path) -> Path:
    certificate = folder / "example.com.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(certificate)]
    command += ["-keyout", str(folder / "example.com.key")]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True
