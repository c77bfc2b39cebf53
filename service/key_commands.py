"""The commands that change who may do what: keys add, list and revoke."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from service import keys
from service.audit import audit, command_line_user
from service.errors import InvalidSettings
from service.keys import Key, Limits, Scope
from service.settings import Settings


def add_key(
    settings: Settings,
    *,
    tenant: str,
    scopes: Sequence[Scope],
    name: str,
    expires_at: datetime | None,
    limits: Limits,
) -> None:
    """Make a key and print it.

    Raises:
        InvalidSettings: no file is set or it cannot be written.
    """
    path = _file(settings)
    try:
        key, secret = keys.add_key(
            path, tenant=tenant, scopes=scopes, name=name, expires_at=expires_at, limits=limits
        )
    except OSError as error:
        raise _cannot("written", path, error) from error
    audit("add key", by=command_line_user(), tenant=tenant, what=key.id, count=1)
    print(secret)
    print("This key is shown only now: keep it where its user finds it.", file=sys.stderr)


def list_keys(settings: Settings) -> None:
    """Print what is known of each key.

    Raises:
        InvalidSettings: no file is set, or it cannot be read.
    """
    path = _file(settings)
    try:
        found = keys.read_keys(path)
    except OSError as error:
        raise _cannot("read", path, error) from error
    for key in found:
        print(_describe(key))


def revoke_key(settings: Settings, id: str) -> None:
    """Make a key invalid, from the next request on.

    Raises:
        InvalidSettings: there is no such key; or no file is set, or it cannot be written.
    """
    path = _file(settings)
    try:
        key = keys.revoke_key(path, id)
    except OSError as error:
        raise _cannot("written", path, error) from error
    audit("revoke key", by=command_line_user(), tenant=key.tenant, what=key.id, count=1)


def _describe(key: Key) -> str:
    parts = [
        key.id,
        f"tenant {key.tenant}",
        ",".join(key.scopes),
        f"made {key.created_at:%Y-%m-%d %H:%M:%S}",
    ]
    if key.expires_at is not None:
        parts.append(f"expires {key.expires_at:%Y-%m-%d %H:%M:%S}")
    parts += [
        f"{name.replace('_', ' ')} {limit:,}"
        for name, limit in msgspec.structs.asdict(key.limits).items()
        if limit is not None
    ]
    return "  ".join([*parts, key.name]).rstrip()


def _file(settings: Settings) -> Path:
    if settings.api_keys is None:
        raise InvalidSettings("MEMORY_API_KEYS is not set; expected the file of API keys")
    return settings.api_keys


def _cannot(verb: str, path: Path, error: OSError) -> InvalidSettings:
    return InvalidSettings(f"the file of API keys {path} cannot be {verb} ({error.strerror})")
