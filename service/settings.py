"""The settings of the service; the only reader of the environment."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from service.embedding.manifest import Precision
from service.errors import InvalidSettings

PREFIX = "MEMORY_"

LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, each as MEMORY_<NAME> or as a flag of the same name.

    A description says when to change the setting; it is also what `--help` prints.
    """

    host: Annotated[
        str,
        Meta(
            description="Address to listen on. Set 0.0.0.0 to be reached from other machines, on a "
            "network where everyone may use the service: there are no API keys."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to listen on; 0 takes a free one and logs it."),
    ] = 8080
    model: Annotated[
        Path | None,
        Meta(
            description="Folder of the bundle to serve. Not set: the first one in ./models, or the "
            "starter model, built there."
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        Meta(
            description="Variant of the bundle to run. Not set: its first that this machine can "
            "run. Set fp32 where fidelity is worth more than speed."
        ),
    ] = None
    threads: Annotated[
        int,
        Meta(
            ge=0,
            description="Threads that compute one batch; 0 takes one for each core. Lower it where "
            "other programs, or a container's CPU limit, need the cores.",
        ),
    ] = 0
    max_batch_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens in one batch, padding included; 0 takes 2,048 on a CPU and 16,384 "
            "on a GPU. Lower it for less latency and memory, raise it for throughput on a GPU.",
        ),
    ] = 0
    max_queued_tokens: Annotated[
        int,
        Meta(
            ge=1,
            description="Tokens that may be waiting or running; what would exceed it is answered "
            "429. Lower it to refuse sooner what would wait long.",
        ),
    ] = 524_288
    max_batch_texts: Annotated[
        int,
        Meta(ge=1, description="Texts in one request. OpenAI's clients send up to 2,048."),
    ] = 2_048
    log_level: Annotated[
        LogLevel,
        Meta(description="Least severe events to log. Set warning to log only what needs a look."),
    ] = "info"
    shutdown_grace_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="Seconds that accepted requests have to finish after SIGTERM. Keep it "
            "below the time after which your supervisor kills the process.",
        ),
    ] = 25

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None
    ) -> "Settings":
        """The settings of this environment; a flag, by its field's name, wins over a variable.

        An empty variable counts as not set, as compose files write it.

        Raises:
            InvalidSettings: a variable with our prefix is unknown, or a value is not valid.
        """
        fields = cls.__struct_fields__
        given: dict[str, tuple[str, str]] = {}  # field: (how it was spelled, value)
        for variable, value in environ.items():
            if variable.startswith(PREFIX):
                name = variable.removeprefix(PREFIX).lower()
                if name not in fields or not variable.isupper():
                    raise InvalidSettings(_unknown(variable, fields))
                if value:
                    given[name] = (variable, value)
        for name, flag in (flags or {}).items():
            if flag is not None:
                given[name] = (f"--{name.replace('_', '-')}", flag)
        return cls(**{name: _convert(name, *spelled) for name, spelled in given.items()})


def read_settings(flags: Mapping[str, str | None]) -> Settings:
    """The settings of this process.

    Raises:
        InvalidSettings: a variable with our prefix is unknown, or a value is not valid.
    """
    return Settings.from_environ(os.environ, flags)


def describe(name: str) -> str:
    """When to change a setting, in words."""
    return _meta(name).description or ""


def _convert(name: str, spelling: str, value: str) -> Any:
    choices = _choices(name)
    text = value.lower() if choices else value
    try:
        return msgspec.convert(text, _HINTS[name], strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError:
        expected = f"one of {', '.join(choices)}" if choices else f"a whole number{_range(name)}"
        raise InvalidSettings(f"{spelling}={value}: expected {expected}") from None


def _decode_path(wanted: type, value: str) -> Path:
    if wanted is Path:
        return Path(value)
    raise NotImplementedError(wanted)


def _choices(name: str) -> list[str]:
    annotation = get_args(_HINTS[name])[0]
    members = (annotation, *get_args(annotation))
    return [choice for member in members for choice in get_args(member) if isinstance(choice, str)]


def _range(name: str) -> str:
    meta = _meta(name)
    return f" from {meta.ge} to {meta.le}" if meta.le is not None else f" of at least {meta.ge}"


def _meta(name: str) -> Meta:
    return next(meta for meta in get_args(_HINTS[name]) if isinstance(meta, Meta))


def _unknown(variable: str, fields: tuple[str, ...]) -> str:
    known = [PREFIX + name.upper() for name in fields]
    nearest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.0)[0]
    return f"{variable} is not a setting; did you mean {nearest}? All: {', '.join(known)}"


_HINTS = get_type_hints(Settings, include_extras=True)
