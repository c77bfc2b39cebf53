import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import InvalidSettings
from service.keys import Limits, add_key, open_key_file, read_keys, revoke_key
from tests.service_process import REPOSITORY

# Adds key after key, and prints each one that is added.
ADDER = """
import sys
from pathlib import Path
from service.keys import add_key
while True:
    print(add_key(Path(sys.argv[1]), tenant="acme", scopes=["read"])[1], flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_found_with_what_was_kept_of_it(path: Path) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    limits = Limits(requests_per_minute=7, max_memories=9)
    made, secret = add_key(
        path,
        tenant="acme",
        scopes=["read", "embed"],
        name="butler",
        expires_at=expires_at,
        limits=limits,
    )
    key = open_key_file(path).find(secret)
    assert key == made
    assert (key.tenant, key.scopes, key.name) == ("acme", ("embed", "read"), "butler")
    assert (key.expires_at, key.limits) == (expires_at, limits)


def test_what_is_not_a_key_is_not_found(path: Path) -> None:
    key, secret = add_key(path, tenant="acme", scopes=["read"])
    other, other_secret = add_key(path, tenant="other", scopes=["read"])
    keys = open_key_file(path)
    wrong = "A" if secret[-1] != "A" else "B"
    for given in (
        "",
        key.id,
        secret[:-1],
        secret[:-1] + wrong,
        secret + "A",
        secret + "\n",
        secret.replace(key.id, other.id),
        secret.replace(key.id, "0" * 16),
        secret.upper(),
        "ams_ä",
        "\udcff",
    ):
        assert keys.find(given) is None
    assert keys.find(other_secret) == other


def test_an_expired_key_is_not_found(path: Path) -> None:
    now = datetime.now(UTC)
    _, past = add_key(path, tenant="a", scopes=["read"], expires_at=now - timedelta(seconds=1))
    _, future = add_key(path, tenant="a", scopes=["read"], expires_at=now + timedelta(hours=1))
    keys = open_key_file(path)
    assert keys.find(past) is None
    assert keys.find(future) is not None


def test_a_secret_is_not_in_the_file_and_its_digest_not_in_a_repr(path: Path) -> None:
    key, secret = add_key(path, tenant="acme", scopes=["read"])
    assert secret.split("_", 2)[2] not in path.read_text()  # it may have a "_" itself
    assert repr(key) == f"Key(id={key.id!r}, name='', tenant='acme')"


def test_digests_are_salted(path: Path) -> None:
    for _ in range(2):
        add_key(path, tenant="acme", scopes=["read"])
    one, other = read_keys(path)
    assert one.salt != other.salt


def test_changes_hold_at_once(path: Path) -> None:
    _, first = add_key(path, tenant="acme", scopes=["read"])
    keys = open_key_file(path)
    assert keys.find(first) is not None
    for _ in range(20):
        added, secret = add_key(path, tenant="acme", scopes=["read"])
        assert keys.find(secret) == added
        revoke_key(path, added.id)
        assert keys.find(secret) is None
    assert keys.find(first) is not None


def test_without_its_file_no_key_is_valid(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, secret = add_key(path, tenant="acme", scopes=["read"])
    keys = open_key_file(path)
    content = path.read_bytes()
    path.unlink()
    assert keys.find(secret) is None
    assert "is gone" in caplog.text
    path.write_bytes(content)
    assert keys.find(secret) is not None


def test_a_damaged_file_changes_nothing_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = add_key(path, tenant="acme", scopes=["read"])
    keys = open_key_file(path)
    path.write_text("{")
    for _ in range(3):
        assert keys.find(secret) is not None
    (record,) = caplog.records
    assert "the API keys stay as they were" in record.getMessage()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2, "keys": []}', "\0"])
def test_what_is_not_a_file_of_keys_is_refused_and_left_alone(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(InvalidSettings, match=str(path)):
        open_key_file(path)
    with pytest.raises(InvalidSettings, match=str(path)):
        add_key(path, tenant="acme", scopes=["read"])
    assert path.read_text() == content


def test_a_file_that_is_not_there_is_refused_with_what_makes_one(path: Path) -> None:
    with pytest.raises(InvalidSettings, match="keys add makes one"):
        open_key_file(path)


def test_only_its_owner_reads_the_file(path: Path) -> None:
    previous = os.umask(0)
    try:
        key, _ = add_key(path, tenant="acme", scopes=["read"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        revoke_key(path, key.id)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(previous)


def test_of_changes_at_the_same_time_none_is_lost(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: add_key(path, tenant="a", scopes=["read"])[0], range(40)))
    assert {key.id for key in read_keys(path)} == {key.id for key in made}


def test_a_key_that_was_shown_survives_kill_9(path: Path) -> None:
    shown: list[str] = []
    for milliseconds in (0, 1, 2, 5):
        adder = subprocess.Popen(
            [sys.executable, "-c", ADDER, str(path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert adder.stdout is not None
        shown.append(adder.stdout.readline().strip())
        time.sleep(milliseconds / 1000)
        adder.kill()
        rest, _ = adder.communicate()
        shown += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    keys = open_key_file(path)
    assert all(keys.find(secret.strip()) for secret in shown)
    assert len(json.loads(path.read_text())["keys"]) >= len(shown)
