import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.command_line import main
from service.keys import open_key_file, read_keys

ADD = ("keys", "add", "--tenant", "acme", "--scope", "read")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "keys.json")


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves this process as it was, where the command line takes it for its own."""
    for name in list(os.environ):
        if name.startswith("MEMORY_"):
            monkeypatch.delenv(name)
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger().level
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger().setLevel(level)


def test_a_key_is_printed_once_and_found_by_it(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "9000", "--max-memories", "5")
    expires = ("--expires", "2100-01-31T12:00:00Z", "--name", "butler of Ada")
    assert main([*ADD, "--scope", "embed", *limits, *expires, "--api-keys", file]) == 0
    secret = capsys.readouterr().out.strip()
    key = open_key_file(Path(file)).find(secret)
    assert key is not None
    assert (key.tenant, key.scopes, key.name) == ("acme", ("embed", "read"), "butler of Ada")
    assert main(["keys", "list", "--api-keys", file]) == 0
    shown = capsys.readouterr().out
    assert secret not in shown
    for part in (key.id, "tenant acme", "embed,read", "expires 2100-01-31 12:00:00"):
        assert part in shown
    for part in ("requests per minute 60", "tokens per minute 9,000", "max memories 5"):
        assert part in shown


def test_changes_are_audited_whatever_is_logged_otherwise(
    file: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger().setLevel(logging.ERROR)
    main([*ADD, "--api-keys", file])
    (key,) = read_keys(Path(file))
    main(["keys", "revoke", key.id, "--api-keys", file])
    fields: list[dict[str, Any]] = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert [each["action"] for each in fields] == ["add key", "revoke key"]
    for each in fields:
        assert (each["tenant"], each["what"], each["count"]) == ("acme", key.id, 1)
        assert each["by"].startswith("command line, user ")
    assert {record.name for record in caplog.records} == {"service.audit"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (ADD, "MEMORY_API_KEYS is not set; expected the file of API keys"),
        (("keys", "list"), "MEMORY_API_KEYS is not set"),
        (("keys", "list", "--api-keys", "/nowhere/keys.json"), "/nowhere/keys.json cannot be read"),
        ((*ADD, "--api-keys", "/nowhere/keys.json"), "/nowhere/keys.json cannot be written"),
        (("keys", "revoke", "abc", "--api-keys", "/nowhere/keys.json"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--scope", "all"), "invalid choice: 'all'"),
        (("--tenant", ""), "expected 1 to 256 printable characters"),
        (("--tenant", "a\nb"), "expected 1 to 256 printable characters"),
        (("--expires", "tomorrow"), "expected a time with its zone"),
        (("--expires", "2027-01-31T12:00:00"), "expected a time with its zone"),
        (("--max-memories", "0"), "expected a whole number of at least 1, got 0"),
        (("--tokens-per-minute", "many"), "expected a whole number of at least 1, got many"),
    ],
)
def test_a_malformed_argument_is_refused_with_what_was_expected(
    file: str, arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*ADD, *arguments, "--api-keys", file])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not Path(file).exists()


def test_a_key_that_is_not_there_cannot_be_revoked(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*ADD, "--api-keys", file])
    assert main(["keys", "revoke", "abc", "--api-keys", file]) == 2
    assert f"there is no key 'abc' in {file}" in capsys.readouterr().err
    assert len(read_keys(Path(file))) == 1
