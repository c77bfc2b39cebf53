"""How many tokens a second does the service embed over HTTP, and how fast, beside other servers?

    uv run --extra export --group bench python benchmarks/bench_http.py --bundle BUNDLE \
        --peers CHECKPOINT --save benchmarks/results/http-MACHINE.json

It drives this project's service over each bundle, the peers that are installed (see README.md), and
any server that takes OpenAI's requests at a URL. All of them run at once, each idle unless it is
its turn, and they take turns at every load, so that what else the machine does falls on all alike.
An engine takes turns, too: the same batches through the bundle's graph, without a server.

Every server reads the same tokens: lengths count special tokens and the prompt of the first bundle.
This project's service puts the prompt before a text itself; the others are sent texts that begin
with it, as their users must send them. No text is sent twice to a server. Answers are asked for in
base64 where a server knows it.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import msgspec
import tokenizers
import uvloop
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_engine import EngineProcess  # noqa: E402
from benchmarks.draw import draw_bars, draw_lines  # noqa: E402
from benchmarks.http_goals import ENGINE, Results, saturation, verdicts  # noqa: E402
from benchmarks.http_load import describe, summarise  # noqa: E402
from benchmarks.http_turns import LOADS, Server, Turns, meet  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from benchmarks.peer_servers import installed_peers, running, service  # noqa: E402
from benchmarks.synthetic_texts import SyntheticTexts  # noqa: E402
from service.embedding.manifest import read_manifest  # noqa: E402
from service.embedding.prompts import default_prompt  # noqa: E402

# The loads that an engine has as well: texts and tokens of a batch.
ENGINE_SHAPES = {"single": (1, 16), "batches": (32, 128)}


def measure(
    servers: list[Server],
    engines: list[EngineProcess],
    texts: SyntheticTexts,
    loads: Iterable[str],
    rounds: int,
    seconds: float,
) -> Results:
    """The figures of every server at every load, and those of the engines."""
    turns = Turns(texts, seconds)
    of_engines: defaultdict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    takers: list[tuple[str, Server | EngineProcess, int]] = []
    for number in range(rounds):
        for load in loads:
            takers += [(load, server, number) for server in servers]
            takers += [(load, engine, number) for engine in engines if load in ENGINE_SHAPES]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for load, taker, number in tqdm(takers, unit="turn", disable=None):
            if isinstance(taker, Server):
                runner.run(turns.take(load, taker, number))
            else:
                count, tokens = ENGINE_SHAPES[load]
                took = of_engines[load].setdefault(taker.name, [])
                took.append(taker.run(f"{count}x{tokens}", seconds))
    results: Results = {
        part: {name: summarise(of_server) for name, of_server in by_server.items()}
        for part, by_server in turns.taken.items()
    }
    for load, by_engine in of_engines.items():
        count, tokens = ENGINE_SHAPES[load]
        for name, took in by_engine.items():
            rates = [count * len(of_turn) / sum(of_turn) for of_turn in took]
            milliseconds = [[seconds * 1000 for seconds in of_turn] for of_turn in took]
            results[load][name] = describe(milliseconds, rates, [rate * tokens for rate in rates])
    return results


def compare(results: Results) -> Results:
    """How many times better than each other's the first server's throughput and p95 are."""
    ratios: Results = {}
    for part, by_server in results.items():
        (_, first), *others = by_server.items()
        ratios[part] = {
            name: {
                "tokens_per_second": _ratio(first, other, "tokens_per_second"),
                "p95_ms": _ratio(other, first, "p95_ms"),
            }
            for name, other in others
        }
    return ratios


def print_tables(results: Results, ratios: Results) -> None:
    """A table for each part of a load."""
    headings = " tokens/s  texts/s    p50 ms    p95 ms    p99 ms  answers  x tok/s    x p95  errors"
    width = 2 + max(len(name) for by_server in results.values() for name in by_server)
    for part, by_server in results.items():
        print(f"\n{part}".ljust(width + 1) + headings)
        for name, figures in by_server.items():
            of_first = ratios[part].get(name, {"tokens_per_second": "", "p95_ms": ""})
            print(
                f"{name.ljust(width)}{figures['tokens_per_second']:>9,.0f}"
                f"{figures['texts_per_second']:>9,.1f}{figures['p50_ms']:>10,.1f}"
                f"{figures['p95_ms']:>10,.1f}{figures['p99_ms']:>10,.1f}{figures['answers']:>9,}"
                f"{of_first['tokens_per_second'] or '':>9}{of_first['p95_ms'] or '':>9}"
                f"  {', '.join(f'{n} x {error}' for error, n in figures['errors'].items())}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="loads: " + "; ".join(f"{name}: {what}" for name, what in LOADS.items()),
    )
    parser.add_argument("--bundle", action="append", default=[], type=Path, dest="bundles")
    parser.add_argument("--peers", type=Path, metavar="CHECKPOINT", help="start installed peers")
    parser.add_argument("--only", nargs="+", metavar="PEER", help="of those, these alone")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=URL", dest="urls")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="default: the first bundle's, or CHECKPOINT",
    )
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server at a load")
    parser.add_argument("--seconds", type=float, default=10, help="length of a turn")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="also draws FILE.svg")
    options = parser.parse_args()
    folder = next(filter(None, (options.tokenizer, *options.bundles, options.peers)), None)
    if folder is None:
        parser.error("--url alone needs --tokenizer: texts are made to have so many tokens")
    if "open" in options.loads and "mixed" not in options.loads:
        parser.error("the load open needs mixed, whose throughput gives its rates")

    prompt = default_prompt(read_manifest(options.bundles[0])) if options.bundles else ""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = SyntheticTexts(tokenizer, prompt)
    with ExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        commands = [service(_name(bundle), bundle, store) for bundle in options.bundles]
        ours = len(commands)
        if options.peers:
            peers = installed_peers(options.peers)
            commands += [peer for peer in peers if peer.name in (options.only or [peer.name])]
        servers = [
            meet(command.name, stack.enter_context(running(command)), texts, prompt, ours=n < ours)
            for n, command in enumerate(tqdm(commands, unit="server", disable=None))
        ]
        urls = (url.split("=", 1) for url in options.urls)
        servers += [meet(name, url.rstrip("/"), texts, prompt, ours=False) for name, url in urls]
        engines = [
            EngineProcess(ENGINE + _name(bundle), bundle, os.cpu_count() or 1)
            for bundle in options.bundles
        ]
        for engine in engines:
            stack.callback(engine.close)
        batch_tokens = _batch_tokens(servers[0]) if servers[0].ours else 0
        results = measure(servers, engines, texts, options.loads, options.rounds, options.seconds)
    ratios = compare(results)
    reached = verdicts(results, batch_tokens) if servers[0].ours else []
    saturated = saturation(results)
    print_tables(results, ratios)
    print()
    for name, tokens_per_second in saturated.items():
        print(f"{name} saturates at {tokens_per_second:,.0f} tokens/s of texts that arrive")
    for server in servers:
        print(f"{server.name} reports {server.reported_tokens} tokens for a text of 16")
    print(*reached, sep="\n")
    if options.save:
        report = {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "tokens_reported_of_16": {server.name: server.reported_tokens for server in servers},
            "loads": results,
            "ratios_of_the_first": ratios,
            "saturation_tokens_per_second": saturated,
            "goals": [str(verdict) for verdict in reached],
        }
        save_report(options.save, __doc__.splitlines()[0], report)
        draw(results, options.save)


def draw(results: Results, path: Path) -> None:
    """Throughput where clients wait for answers, and p95 where texts arrive at random."""
    waited = {load: figures for load, figures in results.items() if " " not in load}
    if waited:
        draw_bars(waited, "tokens_per_second", "tokens/s", path.with_suffix(".svg"))
    arriving: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for load, figures in results.items():
        if load.startswith("open "):
            share = float(load.removeprefix("open ").removesuffix("%"))
            for name, of_server in figures.items():
                arriving[name][share] = of_server["p95_ms"]
    if arriving:
        rate = "texts that arrive, in % of what the first server embeds"
        draw_lines(arriving, rate, "p95 ms", path.with_name(f"{path.stem}-open.svg"))


def _batch_tokens(server: Server) -> int:
    """What the workers of this project's service compute at the same time, each in a batch."""
    with urlopen(urljoin(server.url, "/info")) as answer:
        info = msgspec.json.decode(answer.read())
    tokens: int = info["workers"] * info["limits"]["max_batch_tokens"]
    return tokens


def _ratio(better: dict[str, Any], worse: dict[str, Any], figure: str) -> float | None:
    return round(better[figure] / worse[figure], 2) if worse[figure] else None


def _name(bundle: Path) -> str:
    return f"this project {read_manifest(bundle).variants[0].precision}"


if __name__ == "__main__":
    main()
