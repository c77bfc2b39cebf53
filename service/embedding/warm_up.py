"""Which batches suit this machine: measured at the start with a few of them, and chosen from that.

The figures are those of the model that is served, on the cores that it may use, with whatever else
computes there at the time.
"""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

import numpy as np

from service.embedding.batching import Cores, Cost, Plan
from service.embedding.cuda_model import BATCHES_IN_FLIGHT, CudaModel
from service.embedding.onnx_model import LENGTH_BORDER, Model, OnnxModel
from service.embedding.tokenization import TokenIds

logger = logging.getLogger(__name__)

# No batch is begun that would end later than this, but for the smallest on either session.
SECONDS = 0.4

# Texts and tokens of the batches, so few that a start is not held up, and each in three rounds,
# since what else the machine does only ever makes one slower.
SHAPES = ((1, 16), (4, 16), (8, 32))
ROUNDS = 3

# What a batch takes whatever it holds may be this share of it. Larger batches gain less than that,
# and those wait for them that come after.
FIXED_SHARE = 0.05
FEWEST_BATCH_TOKENS, MOST_BATCH_TOKENS = 128, 2_048
BATCH_TOKENS_STEP = 64

# Workers compute small batches of different lengths at once, which one batch on all cores cannot.
# So it must be faster than they are by more than two measurements differ.
CLEARLY_FASTER = 1.1

# EmbeddingGemma at int8 on one core of a server of 2025, for those who start without measuring.
ASSUMED_COST = Cost(batch=0.005, token=0.0004)

# A GPU computes many tokens in hardly more time than few, so its batches are larger ones.
GPU_SHAPES = ((1, 16), (32, 32), (64, 64))

# EmbeddingGemma at fp16 on an H200, for those who start without measuring.
ASSUMED_GPU_COST = Cost(batch=0.0015, token=0.000_001)
GPU_BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds that a batch of so many tokens took, at best."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurements:
    """Timings by ascending tokens, of the same batches as far as there was time for them."""

    all_cores: tuple[Timing, ...]
    one_core: tuple[Timing, ...]
    """Of one batch on each core at the same time; empty where that was not tried."""


def plan_for(
    model: Model,
    text: TokenIds,
    *,
    workers: int = 0,
    max_batch_tokens: int = 0,
    measured: bool = True,
) -> Plan:
    """How to form batches for this model, here; what is not 0 is taken as it is given.

    `text` is any that the model reads. Without `measured` constants are taken. On a GPU with it
    CUDA graphs are captured, too.

    Raises:
        InferenceError: the model failed.
    """
    if isinstance(model, CudaModel):
        cost = ASSUMED_GPU_COST
        how = "attention by " + ", then ".join(model.attention_kernels())
        if measured:
            how += f", {model.capture()} shapes captured"
            timings = _time_on_gpu(model, text)
            cost = fit(timings)
            how += f", measured: {_rate(timings[-1]):,.0f} tokens/s"
        # It computes one batch at a time: so of two in flight each costs twice as much, and one of
        # all that waits is better.
        of_each = Cost(BATCHES_IN_FLIGHT * cost.batch, BATCHES_IN_FLIGHT * cost.token)
        plan = Plan(
            workers or BATCHES_IN_FLIGHT,
            max_batch_tokens or GPU_BATCH_TOKENS,
            of_each,
            cost,
            model.borders,
        )
    elif not measured:
        all_cores = Cost(ASSUMED_COST.batch, ASSUMED_COST.token / model.threads)
        plan = _plan(workers or model.threads, max_batch_tokens, ASSUMED_COST, all_cores)
        how = "not measured"
    else:
        measurements = measure(model, text, on_one_core=model.threads > 1 and workers != 1)
        plan = choose(
            measurements, cores=model.threads, workers=workers, max_batch_tokens=max_batch_tokens
        )
        how = _describe(measurements, model.threads)
    logger.info(
        "%d workers on %d threads, batches of up to %s tokens (%s)",
        plan.workers,
        model.threads,
        f"{plan.max_batch_tokens:,}",
        how,
    )
    return plan


def choose(
    measurements: Measurements, *, cores: int, workers: int = 0, max_batch_tokens: int = 0
) -> Plan:
    """The plan that these measurements ask for; what is not 0 is taken as it is given."""
    all_cores = fit(measurements.all_cores)
    if not measurements.one_core:
        return _plan(workers or 1, max_batch_tokens, all_cores, all_cores)
    if not workers:
        # Both were tried with this one, and the larger a batch, the more it says.
        together, each = list(zip(measurements.all_cores, measurements.one_core, strict=False))[-1]
        alone_is_faster = _rate(together) > CLEARLY_FASTER * cores * _rate(each)
        workers = 1 if alone_is_faster else cores
    return _plan(workers, max_batch_tokens, fit(measurements.one_core), all_cores)


def fit(timings: Iterable[Timing]) -> Cost:
    """The cost that comes nearest to these timings, in proportion to each of them."""
    tokens, seconds = np.array([(timing.tokens, timing.seconds) for timing in timings]).T
    if len(tokens) > 1:
        weighted = np.stack([1 / seconds, tokens / seconds], axis=1)  # (timings, 2)
        batch, token = np.linalg.lstsq(weighted, np.ones(len(tokens)))[0].tolist()
        if batch > 0 and token > 0:
            return Cost(batch, token)
    return Cost(0.0, float(np.median(seconds / tokens)))


def measure(
    model: OnnxModel, text: TokenIds, *, on_one_core: bool, seconds: float = SECONDS
) -> Measurements:
    """Try batches of each shape on all cores, and one of them on each core at the same time.

    Raises:
        InferenceError: the model failed.
    """
    deadline = time.perf_counter() + seconds
    best: dict[Cores, dict[int, float]] = {"all": {}, "one": {}}
    sessions = get_args(Cores) if on_one_core else ("all",)
    with ThreadPoolExecutor(model.threads, "warm-up") as threads:
        for _, (texts, length), cores in itertools.product(range(ROUNDS), SHAPES, sessions):
            batch = [np.resize(text, length)] * texts
            tokens = texts * length
            known = best[cores]
            if known and time.perf_counter() + _expected(known, tokens) > deadline:
                continue
            started = time.perf_counter()
            at_once = model.threads if cores == "one" else 1
            list(threads.map(model.run, [batch] * at_once, [cores] * at_once))
            took = time.perf_counter() - started
            known[tokens] = min(took, known.get(tokens, took))
    all_cores, one_core = (
        tuple(itertools.starmap(Timing, best[cores].items())) for cores in ("all", "one")
    )
    return Measurements(all_cores, one_core)


def _time_on_gpu(model: CudaModel, text: TokenIds) -> list[Timing]:
    return [
        Timing(texts * length, min(_seconds(model, [np.resize(text, length)] * texts)))
        for texts, length in GPU_SHAPES
    ]


def _seconds(model: CudaModel, batch: list[TokenIds]) -> Iterator[float]:
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.run(batch)
        yield time.perf_counter() - started


def _plan(workers: int, max_batch_tokens: int, one_core: Cost, all_cores: Cost) -> Plan:
    cost = all_cores if workers == 1 else one_core
    worthwhile = cost.batch / cost.token * (1 / FIXED_SHARE - 1)
    rounded = int(-(-worthwhile // BATCH_TOKENS_STEP)) * BATCH_TOKENS_STEP
    within_bounds = min(max(rounded, FEWEST_BATCH_TOKENS), MOST_BATCH_TOKENS)
    return Plan(
        workers, max_batch_tokens or within_bounds, one_core, all_cores, borders=(LENGTH_BORDER,)
    )


def _describe(measurements: Measurements, cores: int) -> str:
    described = f"measured: {_rate(measurements.all_cores[-1]):,.0f} tokens/s on all cores together"
    if measurements.one_core:
        described += f", {cores * _rate(measurements.one_core[-1]):,.0f} on each for itself"
    return described


def _expected(known: dict[int, float], tokens: int) -> float:
    largest = max(known)
    return known.get(tokens, known[largest] * tokens / largest)


def _rate(timing: Timing) -> float:
    return timing.tokens / timing.seconds
