"""The settings of the service; the only reader of the environment."""

import difflib
import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from service.embedding.manifest import Precision
from service.errors import InvalidSettings

PREFIX = "MEMORY_"

# The tenant of those who need no key.
DEFAULT_TENANT = "default"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


# Named as Neo4j's own tools and OpenTelemetry's name them.
STANDARD_FIELDS = (
    "neo4j_username",
    "neo4j_password",
    "neo4j_database",
    "otel_exporter_otlp_endpoint",
)

# Never flags: every user of a machine sees the flags of its processes.
SECRETS = ("neo4j_password",)


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """Networks, and addresses as networks of one, as they are set: separated by commas."""

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, each as MEMORY_<NAME> or as a flag of the same name.

    A description says when to change the setting; it is also what `--help` prints.
    """

    host: Annotated[
        str,
        Meta(
            description="Address to listen on. Set 0.0.0.0 to be reached from other machines, for "
            "which there must be API keys."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to listen on; 0 takes a free one and logs it."),
    ] = 8080
    root_path: Annotated[
        str,
        Meta(
            pattern=r"^(/[\w.~-]+)+$",
            examples=["/memory"],
            description="Where a proxy has the routes, such as /memory where it serves "
            "https://example.com/memory/info. Set it behind such a proxy, whether that takes the "
            "path off or not.",
        ),
    ] = ""
    trusted_proxies: Annotated[
        Networks,
        Meta(
            examples=["10.0.0.0/8,127.0.0.1"],
            description="Addresses and networks of proxies, separated by commas. Set it behind "
            "one: the log then names its clients, whom it tells in X-Forwarded-For, which "
            "everyone else could invent.",
        ),
    ] = Networks()
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
    store: Annotated[
        str,
        Meta(
            description="Where memories are kept: sqlite:///path/to/file.db, with four slashes "
            "before an absolute path, or neo4j://host:7687, also neo4j+s:// and bolt://."
        ),
    ] = "sqlite:///memory.db"
    relevance_cutoff: Annotated[
        Annotated[float, Meta(ge=-1, le=1)] | None,
        Meta(
            description="Similarity from which on recall takes a memory for relevant. Not set: as "
            "measured for the model. Raise it where recall brings what does not belong.",
        ),
    ] = None
    threads: Annotated[
        int,
        Meta(
            ge=0,
            description="Threads that compute; 0 takes one for each core that the process may use, "
            "within its container's CPU limit. Lower it where other programs need the cores.",
        ),
    ] = 0
    workers: Annotated[
        int,
        Meta(
            ge=0,
            description="Batches computed at the same time, each on one core; 0 measures at the "
            "start what is faster. Set 1, all cores for one batch after the other, to save memory: "
            "more keep the layers' weights twice, at int8 110 MB for EmbeddingGemma, at fp32 430.",
        ),
    ] = 0
    gpu_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="GPU memory for weights and activations; 0 takes what is needed. CUDA "
            "itself takes some 500 MB on top. Set it where several processes share a GPU.",
        ),
    ] = 0
    max_batch_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens in one batch, padding included; 0 measures at the start from where "
            "on more gain little, and takes 16,384 on a GPU. Lower it for less latency under load.",
        ),
    ] = 0
    warm_up: Annotated[
        bool,
        Meta(
            description="Whether to measure at the start, for up to half a second, what MEMORY_"
            "WORKERS and MEMORY_MAX_BATCH_TOKENS leave open. Set false where starts must be the "
            "same: one worker for each thread, batches of 256 tokens."
        ),
    ] = True
    cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Memory for embeddings of texts that may come again, some 3.5 kB each; 0 "
            "keeps none. Set it where the same queries are asked often; /info counts the hits.",
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
    api_keys: Annotated[
        Path | None,
        Meta(
            description="File of the API keys, which `python -m service keys add` makes. Not set: "
            "everyone on this machine may do everything, and no other machine is served."
        ),
    ] = None
    cors_origins: Annotated[
        str | None,
        Meta(
            description="Origins of web pages that may use the service from a browser, with commas "
            "between them, or * for all. Not set: none may."
        ),
    ] = None
    receive_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            description="Seconds that the headers of a request may take to arrive, and its body, "
            "which has one more for each 16 KiB. Lower it where slow clients take connections from "
            "others.",
        ),
    ] = 30
    log_level: Annotated[
        LogLevel,
        Meta(description="Least severe events to log. Set warning to log only what needs a look."),
    ] = "info"
    log_format: Annotated[
        LogFormat,
        Meta(description="How log lines look: text for people; set json where a program reads."),
    ] = "text"
    shutdown_grace_seconds: Annotated[
        int,
        Meta(
            ge=0,
            description="Seconds that accepted requests have to finish after SIGTERM. Keep it "
            "below the time after which your supervisor kills the process.",
        ),
    ] = 25
    neo4j_username: Annotated[
        str | None, Meta(description="Whom to log in as, where the store is Neo4j.")
    ] = None
    neo4j_password: Annotated[
        str | None, Meta(description="That user's password; not a flag, since flags are public.")
    ] = None
    neo4j_database: Annotated[
        str, Meta(description="The database to use, where the server has several.")
    ] = "neo4j"
    otel_exporter_otlp_endpoint: Annotated[
        str | None,
        Meta(
            description="OpenTelemetry collector to send traces to, over HTTP, such as "
            "http://127.0.0.1:4318. Needs the extra `otel`."
        ),
    ] = None

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={'***' if name in SECRETS and value else repr(value)}"
            for name, value in msgspec.structs.asdict(self).items()
        )
        return f"Settings({shown})"

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
                if name not in fields or variable_of(name) != variable:
                    raise InvalidSettings(_unknown(variable, fields))
                if value:
                    given[name] = (variable, value)
        for name in STANDARD_FIELDS:
            if standard := environ.get(variable_of(name)):
                given[name] = (variable_of(name), standard)
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


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper() if name in STANDARD_FIELDS else PREFIX + name.upper()


def describe(name: str) -> str:
    """When to change a setting, in words."""
    return _meta(name).description or ""


def _convert(name: str, spelling: str, value: str) -> Any:
    choices = _choices(name)
    text = value.lower() if choices else value
    try:
        return msgspec.convert(text, _HINTS[name], strict=False, dec_hook=_decode)
    except msgspec.ValidationError:
        raise InvalidSettings(f"{spelling}={value}: expected {_expected(name)}") from None


def _expected(name: str) -> str:
    if choices := _choices(name):
        return f"one of {', '.join(choices)}"
    if name == "warm_up":
        return "true or false"
    if examples := _meta(name).examples:
        return f"something such as {examples[0]}"
    return ("a number" if name == "relevance_cutoff" else "a whole number") + _range(name)


def _decode(wanted: type, value: str) -> Path | Networks:
    if wanted is Path:
        return Path(value)
    if wanted is Networks:
        return Networks(ip_network(network.strip()) for network in value.split(","))
    raise NotImplementedError(wanted)


def _choices(name: str) -> list[str]:
    annotation = get_args(_HINTS[name])[0]
    members = (annotation, *get_args(annotation))
    return [choice for member in members for choice in get_args(member) if isinstance(choice, str)]


def _range(name: str) -> str:
    meta = _bounds(name)
    return f" from {meta.ge} to {meta.le}" if meta.le is not None else f" of at least {meta.ge}"


def _meta(name: str) -> Meta:
    return next(meta for meta in get_args(_HINTS[name]) if isinstance(meta, Meta))


def _bounds(name: str) -> Meta:
    members = get_args(get_args(_HINTS[name])[0])
    of_members = (meta for member in members for meta in get_args(member))
    return next((meta for meta in of_members if isinstance(meta, Meta)), _meta(name))


def _unknown(variable: str, fields: tuple[str, ...]) -> str:
    known = [variable_of(name) for name in fields]
    nearest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.0)[0]
    return f"{variable} is not a setting; did you mean {nearest}? All: {', '.join(known)}"


_HINTS = get_type_hints(Settings, include_extras=True)
