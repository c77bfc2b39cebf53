"""python -m service check: tries the model and the store out here, and reports what it found."""

import asyncio
import platform
import statistics
import time
from importlib.metadata import version
from typing import Literal

import msgspec
import numpy as np

import service
from service.embedding.embedder import Embedder
from service.embedding.onnx_model import available_execution_providers
from service.embedding.prompts import default_prompt, prompt_for_input_type
from service.embedding.runtime_package import runtime_package
from service.errors import ServiceError, StoreInUse
from service.memory import open_store
from service.memory.memories import embedding_model_of
from service.opening import open_embedder_of, store_address
from service.settings import Settings

PACKAGES = (
    "httptools",
    "litestar",
    "msgspec",
    "neo4j",
    "numpy",
    "orjson",
    "tokenizers",
    "uvicorn",
)

# The promise that the vector of a text does not depend on its batch.
BATCH_COSINE_MIN = 0.9999

# Between 16 and 32 tokens with the tokenizers and prompts of the supported models.
TEXT = "The committee met on day {} to agree on how much water the two towns may take."

# Texts in one request, and how many requests the median is taken of.
SPEEDS = ((1, 21), (10, 9), (50, 5))

Outcome = Literal["ok", "warning", "failed"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; `figures` are for machines."""

    name: str
    outcome: Outcome
    summary: str
    figures: dict[str, float | int | str | None] = {}


class Report(msgspec.Struct, frozen=True):
    """All checks, and whether nothing is wrong."""

    ok: bool
    checks: list[Check]


def check(settings: Settings, *, as_json: bool) -> int:
    """Check this machine and the bundle, print the report, and return the exit status."""
    checks = asyncio.run(_run(settings))
    report = Report(ok=all(done.outcome != "failed" for done in checks), checks=checks)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print(_as_table(report))
    return 0 if report.ok else 1


async def _run(settings: Settings) -> list[Check]:
    checks = [_environment(), _packages(), _execution_providers()]
    try:
        async with open_embedder_of(settings) as embedder:
            checks += [_bundle(settings, embedder), _parity(embedder), _dimensions(embedder)]
            checks.append(_plan(embedder))
            if embedder.gpu_nodes is not None:
                checks.append(_gpu_nodes(embedder.gpu_nodes, embedder.execution_providers[0]))
            checks.append(await _known_answers(embedder))
            checks.append(await _batch_invariance(embedder))
            checks.append(await _store(settings, embedder))
            checks += [await _speed(embedder, texts, runs) for texts, runs in SPEEDS]
    except ServiceError as error:
        checks.append(Check("model", "failed", str(error)))
    return checks


def _environment() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> Check:
    packages = (*PACKAGES, runtime_package())
    versions = {"service": service.__version__, **{name: version(name) for name in packages}}
    summary = ", ".join(f"{name} {number}" for name, number in versions.items())
    return Check("packages", "ok", summary, {**versions})


def _execution_providers() -> Check:
    return Check("execution providers", "ok", ", ".join(available_execution_providers()))


def _bundle(settings: Settings, embedder: Embedder) -> Check:
    manifest, variant = embedder.manifest, embedder.variant
    digest = variant.weights.sha256
    return Check(
        "bundle",
        "ok",
        f"{manifest.name} from {settings.model}: {variant.precision} on "
        f"{embedder.execution_providers[0]}, files as recorded (sha256 {digest[:12]}…)",
        {
            "model": manifest.name,
            "source": manifest.source.id,
            "precision": variant.precision,
            "execution_provider": embedder.execution_providers[0],
            "graph_sha256": variant.graph.sha256,
            "weights_sha256": digest,
        },
    )


def _parity(embedder: Embedder) -> Check:
    parity = embedder.variant.parity
    if parity is None:
        return Check("parity", "warning", "not measured; export with the extra `export` to do so")
    return Check(
        "parity",
        "ok",
        f"cosine to {parity.reference} at least {parity.cosine_min:.5f}, mean "
        f"{parity.cosine_mean:.5f}, same nearest document {parity.top1_agreement:.3f} "
        f"({parity.texts} texts)",
        msgspec.structs.asdict(parity),
    )


def _dimensions(embedder: Embedder) -> Check:
    supported = ", ".join(map(str, embedder.supported_dimensions))
    return Check(
        "dimensions",
        "ok",
        f"{supported}; up to {embedder.limits.max_tokens_per_text:,} tokens a text",
        {"dimensions": embedder.dimensions, "max_tokens": embedder.limits.max_tokens_per_text},
    )


def _plan(embedder: Embedder) -> Check:
    workers, threads = embedder.workers, embedder.threads
    tokens = embedder.limits.max_batch_tokens
    return Check(
        "plan",
        "ok",
        f"{workers} workers on {threads} threads, batches of up to {tokens:,} tokens",
        {"workers": workers, "threads": threads, "max_batch_tokens": tokens},
    )


def _gpu_nodes(nodes: dict[str, int], provider: str) -> Check:
    elsewhere = {name: count for name, count in nodes.items() if name != provider}
    placed = ", ".join(f"{count} on {name}" for name, count in nodes.items())
    return Check(
        "nodes",
        "failed" if elsewhere else "ok",
        f"{placed}; expected all on {provider}",
        {**nodes},
    )


async def _known_answers(embedder: Embedder) -> Check:
    known = embedder.manifest.known_answers
    if known is None:
        return Check("known answers", "warning", "the bundle has none")
    query = await embedder.embed(
        [known.query], prompt=prompt_for_input_type(embedder.manifest, "query")
    )
    documents = await embedder.embed(
        known.documents, prompt=prompt_for_input_type(embedder.manifest, "document")
    )
    similarities = documents.embeddings @ query.embeddings[0]  # (documents,)
    worst = float(np.abs(similarities - np.array(known.similarities)).max())
    found = ", ".join(f"{similarity:.4f}" for similarity in similarities)
    expected = ", ".join(f"{similarity:.4f}" for similarity in known.similarities)
    return Check(
        "known answers",
        "ok" if worst <= known.tolerance else "failed",
        f"similarities {found}; expected {expected} within {known.tolerance}",
        {"largest_difference": worst, "tolerance": known.tolerance},
    )


async def _batch_invariance(embedder: Embedder) -> Check:
    texts = [TEXT.format(day) + " They adjourned." * day for day in range(10)]
    prompt = default_prompt(embedder.manifest)
    together = await embedder.embed(texts, prompt=prompt)
    alone = [await embedder.embed([text], prompt=prompt) for text in texts]
    cosines = [
        float(single.embeddings[0] @ batched)
        for single, batched in zip(alone, together.embeddings, strict=True)
    ]
    worst = min(cosines)
    return Check(
        "batch invariance",
        "ok" if worst >= BATCH_COSINE_MIN else "failed",
        f"cosine of a text alone and in a batch at least {worst:.6f}; expected {BATCH_COSINE_MIN}",
        {"cosine_min": worst},
    )


async def _store(settings: Settings, embedder: Embedder) -> Check:
    try:
        model = embedding_model_of(embedder.manifest)
        async with open_store(store_address(settings), model) as store:
            await store.ping()
            info = await store.info()
    except StoreInUse as error:
        return Check("store", "ok", str(error))
    except ServiceError as error:
        return Check("store", "failed", str(error))
    return Check(
        "store",
        "ok",
        f"{info.kind} {info.version} at {info.address}; vectors: {info.vector_search}",
        {"kind": info.kind, "version": info.version, "address": info.address},
    )


async def _speed(embedder: Embedder, texts: int, runs: int) -> Check:
    batch = [TEXT.format(day) for day in range(texts)]
    prompt = default_prompt(embedder.manifest)
    tokens = sum((await embedder.embed(batch, prompt=prompt)).tokens)
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        await embedder.embed(batch, prompt=prompt)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return Check(
        "1 text" if texts == 1 else f"{texts} texts",
        "ok",
        f"{texts / median:,.0f} texts/s, {tokens / median:,.0f} tokens/s, "
        f"{median * 1000:.1f} ms (median of {runs}, {tokens / texts:.0f} tokens a text)",
        {"texts_per_second": texts / median, "tokens_per_second": tokens / median},
    )


def _as_table(report: Report) -> str:
    width = max(len(done.name) for done in report.checks)
    lines = [f"{done.outcome:8} {done.name:{width}}  {done.summary}" for done in report.checks]
    failed = sum(done.outcome == "failed" for done in report.checks)
    lines.append(f"{failed} of {len(lines)} checks failed" if failed else "nothing is wrong")
    return "\n".join(lines)
