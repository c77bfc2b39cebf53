"""The commands, and the flags that override the environment."""

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, get_args

import msgspec

from service import __version__
from service.bundles import find_or_build_bundle
from service.embedding.prompts import InputType
from service.errors import InvalidSettings, StartupError
from service.heap import keep_little
from service.keys import SCOPES, Limits
from service.mcp import NOT_INSTALLED
from service.settings import (
    DEFAULT_TENANT,
    SECRETS,
    Settings,
    describe,
    read_settings,
    variable_of,
)
from service.telemetry.logs import configure_logs

STATUS_OF_STARTUP_ERROR = 2
STATUS_OF_CTRL_C = 130
STATUS_OF_SIGTERM = 143

COMMANDS = ("serve", "mcp", "check", "embed-files", "dump", "load", "migrate", "re-embed", "keys")

# What these do needs no model, or they look for it themselves.
WITHOUT_MODEL = ("dump", "migrate", "keys", "mcp")

MAX_TENANT = 256  # as for ids

FLAGS = tuple(name for name in Settings.__struct_fields__ if name not in SECRETS)


def main(arguments: Sequence[str]) -> int:
    """Run a command; the exit status."""
    parsed = _parser().parse_args(_with_default_command(arguments))
    # Without a handler the first process of a container never ends on SIGTERM. An exception ends
    # the builder of the starter model, too, if it is waited for.
    status = 0 if parsed.command == "serve" else STATUS_OF_SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    flags = {name: getattr(parsed, name, None) for name in FLAGS}
    try:
        settings = read_settings(flags)
        configure_logs(settings.log_level, settings.log_format)
        if settings.model is None and parsed.command not in WITHOUT_MODEL:
            settings = msgspec.structs.replace(settings, model=find_or_build_bundle())
        return _run(parsed, settings)
    except StartupError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return STATUS_OF_STARTUP_ERROR
    except KeyboardInterrupt:
        return STATUS_OF_CTRL_C


def _run(parsed: argparse.Namespace, settings: Settings) -> int:
    keep_little()
    # Each command imports what it needs, which can take longer than what another one does.
    match parsed.command:
        case "serve":
            from service.server import serve

            return serve(settings)
        case "mcp":
            return _serve_mcp(settings, parsed.tenant)
        case "check":
            from service.check import check

            return check(settings, as_json=parsed.json)
        case "embed-files":
            from service.bulk.embed_files import Wanted, embed_files

            wanted = Wanted(**{name: getattr(parsed, name) for name in Wanted.__struct_fields__})
            embed_files(settings, parsed.input, parsed.output, wanted, ray=parsed.ray)
            return 0
        case "keys":
            _change_keys(parsed, settings)
            return 0
    from service import store_commands

    match parsed.command:
        case "dump":
            store_commands.dump_store(settings, parsed.file, embeddings=not parsed.no_embeddings)
        case "load":
            store_commands.load_store(settings, parsed.file)
        case "migrate":
            store_commands.migrate_store(settings, parsed.source, parsed.target)
        case "re-embed":
            store_commands.re_embed_store(settings)
    return 0


def _change_keys(parsed: argparse.Namespace, settings: Settings) -> None:
    from service import key_commands

    match parsed.change:
        case "add":
            key_commands.add_key(
                settings,
                tenant=parsed.tenant,
                scopes=parsed.scope,
                name=parsed.name,
                expires_at=parsed.expires,
                limits=Limits(**{name: getattr(parsed, name) for name in Limits.__struct_fields__}),
            )
        case "list":
            key_commands.list_keys(settings)
        case "revoke":
            key_commands.revoke_key(settings, parsed.id)


def _serve_mcp(settings: Settings, tenant: str) -> int:
    try:
        from service.mcp.stdio import serve_stdio
    except ModuleNotFoundError as error:
        raise InvalidSettings(f"{error}; {NOT_INSTALLED}") from None
    serve_stdio(settings, tenant)
    return 0


def _with_default_command(arguments: Sequence[str]) -> Sequence[str]:
    if arguments and arguments[0] in (*COMMANDS, "-h", "--help", "--version"):
        return arguments
    return ["serve", *arguments]


def _parser() -> argparse.ArgumentParser:
    settings = _flags(FLAGS)
    parser = argparse.ArgumentParser(
        "python -m service",
        description="Embed and remember text, over HTTP. A flag is also an environment variable.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", title="commands")
    commands.add_parser(
        "serve", parents=[settings], help="serve over HTTP; what happens without a command"
    )
    serving_mcp = commands.add_parser(
        "mcp", parents=[settings], help="serve agents over MCP on the standard input and output"
    )
    serving_mcp.add_argument(
        "--tenant",
        default=DEFAULT_TENANT,
        type=_tenant,
        help="whose memories; the default is %(default)s",
    )
    checking = commands.add_parser(
        "check", parents=[settings], help="try the model out, report, and end"
    )
    checking.add_argument("--json", action="store_true", help="report as JSON")
    embedding = commands.add_parser(
        "embed-files",
        parents=[settings],
        help="write the rows of a file with the embeddings of their texts; goes on where it was "
        "stopped",
    )
    embedding.add_argument("input", type=Path, help="a file of JSON lines, or a Parquet file")
    embedding.add_argument("output", type=Path, help="the file to write, of the same format")
    embedding.add_argument("--field", default="text", help="what the rows call their text [text]")
    embedding.add_argument("--input-type", choices=get_args(InputType))
    embedding.add_argument("--prompt-name", help="one of the model's prompts; its default one")
    embedding.add_argument("--dimensions", type=int, help="size of the embeddings; its full size")
    embedding.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts that are too long, and say in the field `truncated` whether one was",
    )
    embedding.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="compute on this Ray cluster, or on a `local` one; its machines share the files",
    )
    dumping = commands.add_parser(
        "dump", parents=[settings], help="write all memories into a file, as JSON lines"
    )
    dumping.add_argument("file", type=Path, help="the file to write; - for the standard output")
    dumping.add_argument(
        "--no-embeddings", action="store_true", help="leave them out; loading makes them anew"
    )
    loading = commands.add_parser(
        "load", parents=[settings], help="read a dump into the store; safe to run again"
    )
    loading.add_argument("file", type=Path, help="the file to read; - for the standard input")
    migrating = commands.add_parser(
        "migrate", parents=[settings], help="copy a store into another; safe to run again"
    )
    migrating.add_argument("--from", required=True, dest="source", metavar="STORE")
    migrating.add_argument("--to", required=True, dest="target", metavar="STORE")
    commands.add_parser(
        "re-embed",
        parents=[settings],
        help="give all memories embeddings of the model that is set; goes on where it was stopped",
    )
    _add_keys(commands.add_parser("keys", help="say who may do what"))
    return parser


def _flags(names: Sequence[str]) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    for name in names:
        flags.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.upper(),
            help=f"{describe(name)} [{variable_of(name)}]".replace("%", "%%"),
        )
    return flags


def _add_keys(keys: argparse.ArgumentParser) -> None:
    settings = _flags(("api_keys", "log_level"))
    changes = keys.add_subparsers(dest="change", title="commands", required=True)
    adding = changes.add_parser("add", parents=[settings], help="make a key, and print it")
    adding.add_argument(
        "--tenant", required=True, type=_tenant, help="whose memories the key is for"
    )
    adding.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=SCOPES,
        help="what it allows; may be given several times",
    )
    adding.add_argument("--name", default="", help="what it is for, to know it again in lists")
    adding.add_argument(
        "--expires", type=_time, metavar="TIME", help="such as 2027-01-31T12:00:00Z"
    )
    for name in Limits.__struct_fields__:
        flag = f"--{name.replace('_', '-')}"
        adding.add_argument(flag, type=_count, metavar="NUMBER", help="not set: no limit")
    changes.add_parser("list", parents=[settings], help="what is known of each key")
    revoking = changes.add_parser("revoke", parents=[settings], help="make a key invalid, at once")
    revoking.add_argument("id", help="as keys list shows it")


def _tenant(text: str) -> str:
    if not 0 < len(text) <= MAX_TENANT or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected 1 to {MAX_TENANT} printable characters")
    return text


def _time(text: str) -> datetime:
    try:
        time: datetime = msgspec.convert(text, Annotated[datetime, msgspec.Meta(tz=True)])
        return time
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError(
            f"expected a time with its zone, such as 2027-01-31T12:00:00Z, got {text}"
        ) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)
