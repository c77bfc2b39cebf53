"""API keys: what one is, and the file in which their digests are kept.

A key is 256 random bits, which nobody can guess however fast its digest is to compute: the slow
hash that a password needs would only slow down every request. The salt makes the digests of two
files different even where someone has put the same key into both.
"""

import fcntl
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from service.errors import InvalidSettings

logger = logging.getLogger(__name__)

Scope = Literal["embed", "read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# A first part by which scanners for leaked secrets can know it, one that says which key it is, so
# that only one digest has to be compared, and the secret.
_KEY = re.compile(r"ams_([0-9a-f]{16})_[\w-]{43}", re.ASCII)

FORMAT = 1

Count = Annotated[int, Meta(ge=1)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be used with a key; None: as much as the service can."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    max_memories: Count | None = None


UNLIMITED = Limits()


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: what it is for, and a digest by which it is known."""

    id: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    limits: Limits = UNLIMITED
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, name={self.name!r}, tenant={self.tenant!r})"


# Compared where there is no key of the id, so that the answer takes as long as where there is one.
NOBODYS_KEY = Key(
    id="",
    name="",
    tenant="",
    scopes=(),
    created_at=datetime.min.replace(tzinfo=UTC),
    salt=bytes(blake2b.SALT_SIZE),
    digest=bytes(32),
)


class _File(msgspec.Struct):
    format: int
    keys: list[Key]


class KeyFile:
    """The keys of a file as they stand at the moment, also while others change it.

    Opened by open_key_file. A file that is gone has no keys. One that is damaged while the service
    runs changes nothing, and is logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._keys: dict[str, Key] = {}

    def find(self, given: str) -> Key | None:
        """What is kept of a key, if there is such a one that is still valid."""
        self._follow()
        parts = _KEY.fullmatch(given)
        if parts is None:
            return None
        key = self._keys.get(parts[1], NOBODYS_KEY)
        if not hmac.compare_digest(_digest(given, key.salt), key.digest):
            return None
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            return None
        return key

    def read(self) -> None:
        """Read the file if it is not the one that was read last.

        Raises:
            InvalidSettings: it is not a file of keys.
            OSError: it cannot be read.
        """
        status = self._path.stat()
        seen = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            self._keys = {key.id: key for key in read_keys(self._path)}

    def _follow(self) -> None:
        try:
            self.read()
        except FileNotFoundError:
            if self._keys:
                logger.error("%s is gone, so that no API key is valid any more", self._path)
            self._seen, self._keys = None, {}
        except (OSError, InvalidSettings) as error:
            logger.error("the API keys stay as they were: %s", error)


def open_key_file(path: Path) -> KeyFile:
    """The keys of a file.

    Raises:
        InvalidSettings: there is no such file, or it is not one of keys.
    """
    keys = KeyFile(path)
    try:
        keys.read()
    except OSError as error:
        raise InvalidSettings(
            f"the file of API keys {path} cannot be read ({error.strerror}); "
            "python -m service keys add makes one"
        ) from error
    return keys


def read_keys(path: Path) -> list[Key]:
    """The keys in a file, oldest first.

    Raises:
        InvalidSettings: it is not a file of keys.
        OSError: it cannot be read.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not a file of API keys: {error}") from None
    if file.format != FORMAT:
        raise InvalidSettings(f"{path}: expected format {FORMAT}, got {file.format}")
    return file.keys


def add_key(
    path: Path,
    *,
    tenant: str,
    scopes: Sequence[Scope],
    name: str = "",
    expires_at: datetime | None = None,
    limits: Limits = UNLIMITED,
) -> tuple[Key, str]:
    """What is kept of a new key, and the key itself, which is nowhere else.

    Raises:
        InvalidSettings: the file is not one of keys.
        OSError: it cannot be written.
    """
    id, salt = secrets.token_hex(8), secrets.token_bytes(blake2b.SALT_SIZE)
    secret = f"ams_{id}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=id,
        name=name,
        tenant=tenant,
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=expires_at,
        limits=limits,
        salt=salt,
        digest=_digest(secret, salt),
    )
    with _locked(path):
        _write(path, [*(read_keys(path) if path.exists() else []), key])
    return key, secret


def revoke_key(path: Path, id: str) -> Key:
    """Take a key out of the file; what was kept of it.

    Raises:
        InvalidSettings: there is no such key, or the file is not one of keys.
        OSError: the file cannot be read or written.
    """
    with _locked(path):
        keys = read_keys(path)
        revoked = [key for key in keys if key.id == id]
        if not revoked:
            raise InvalidSettings(f"there is no key {id!r} in {path}; keys list shows them")
        _write(path, [key for key in keys if key.id != id])
    return revoked[0]


def _digest(secret: str, salt: bytes) -> bytes:
    return blake2b(secret.encode(), salt=salt, digest_size=32).digest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: Sequence[Key]) -> None:
    # Under another name until it is whole and on the disk, so that no half of a file is ever read.
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(_File(FORMAT, list(keys)))) + b"\n")
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
