"""The commands: serve and check, and the flags that override the environment."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

import msgspec

from service import __version__
from service.bundles import find_or_build_bundle
from service.check import check
from service.errors import StartupError
from service.server import serve
from service.settings import PREFIX, Settings, describe, read_settings

STATUS_OF_STARTUP_ERROR = 2
STATUS_OF_CTRL_C = 130
STATUS_OF_SIGTERM = 143


def main(arguments: Sequence[str]) -> int:
    """Run a command; the exit status."""
    parsed = _parser().parse_args(_with_default_command(arguments))
    # Without a handler the first process of a container never ends on SIGTERM. An exception ends
    # the builder of the starter model, too, if it is waited for.
    status = 0 if parsed.command == "serve" else STATUS_OF_SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    flags = {name: getattr(parsed, name) for name in Settings.__struct_fields__}
    try:
        settings = read_settings(flags)
        logging.basicConfig(
            format="%(asctime)s %(levelname)s %(message)s", level=settings.log_level.upper()
        )
        if settings.model is None:
            settings = msgspec.structs.replace(settings, model=find_or_build_bundle())
        if parsed.command == "check":
            return check(settings, as_json=parsed.json)
        return serve(settings)
    except StartupError as error:
        print(f"error: {error}", file=sys.stderr)
        return STATUS_OF_STARTUP_ERROR
    except KeyboardInterrupt:
        return STATUS_OF_CTRL_C


def _with_default_command(arguments: Sequence[str]) -> Sequence[str]:
    if arguments and arguments[0] in ("serve", "check", "-h", "--help", "--version"):
        return arguments
    return ["serve", *arguments]


def _parser() -> argparse.ArgumentParser:
    settings = argparse.ArgumentParser(add_help=False)
    for name in Settings.__struct_fields__:
        settings.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.upper(),
            help=f"{describe(name)} [{PREFIX}{name.upper()}]".replace("%", "%%"),
        )
    parser = argparse.ArgumentParser(
        "python -m service",
        description="Embed text over HTTP. Every flag is also an environment variable.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", title="commands")
    commands.add_parser(
        "serve", parents=[settings], help="serve over HTTP; what happens without a command"
    )
    checking = commands.add_parser(
        "check", parents=[settings], help="try the model out, report, and end"
    )
    checking.add_argument("--json", action="store_true", help="report as JSON")
    return parser
