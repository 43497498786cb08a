"""How fast a shape decodes and reads prompts, beside what the device allows."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_models import Made, decode_batch, give_back, make_session, measure_limits, timed_ms

from inferd.plugin import DeviceSampling, TokenBatch

Figure = dict[str, Any]
COUNTS, CONTEXTS, PROMPTS = (1, 8, 64, 256), (128, 2048), (100, 512, 2048, 8192)
DRY_COUNTS, DRY_CONTEXTS, DRY_PROMPTS = (1, 4), (32,), (48, 100)
UNSEEN = 20
RESERVE = 0.85  # of free memory that weights and pool may take


def figure(name: str, value: float, unit: str, detail: str = "") -> Figure:
    """A line."""
    return {"name": name, "value": value, "unit": unit, **({"detail": detail} if detail else {})}


def measure_shape(name: str, run: Any) -> Iterator[Figure]:
    """Memory, decoding, prompts, steps of both, and the kernels of a recorded step."""
    counts, contexts = (DRY_COUNTS, DRY_CONTEXTS) if run.dry else (COUNTS, CONTEXTS)
    limits = {key: value for key, (value, _) in measure_limits(run).items()}
    give_back(run)
    sequences = max(counts)
    tokens = 1024 if run.dry else choose_tokens(name, sequences * (max(contexts) + 16))
    made = make_session(name, run, kv_tokens=tokens, max_sequences=sequences)
    if not run.dry:
        yield figure(
            f"{name}.memory", torch.cuda.max_memory_reserved() / made.need_bytes, "of the need", f"{made.need_bytes} B"
        )
    yield from measure_kernels(name, made, run)
    for count, context in product(counts, contexts):
        if count * (context + 16) > tokens or run.left_s < 3:
            yield figure(f"{name}.decode.b{count}.c{context}", float("nan"), "ms", "left out")
            continue
        yield from measure_decode(name, made, run, count=count, context=context, limits=limits)
    yield from measure_prompts(name, made, run, limits)
    yield from measure_mixed(name, made, run)
    made.session.close()


def choose_tokens(name: str, wanted: int) -> int:
    """Tokens of a pool that leaves memory for the rest, in whole blocks."""
    kv_bytes, weights_bytes = {"1b": (1 << 15, 3 << 30), "8b": (1 << 17, 17 << 30)}[name]
    free, _ = torch.cuda.mem_get_info()
    most = int((free * RESERVE - weights_bytes - (6 << 30)) // kv_bytes)
    return max(8448, min(wanted, most)) // 16 * 16


def measure_decode(
    name: str, made: Made, run: Any, *, count: int, context: int, limits: dict[str, float]
) -> Iterator[Figure]:
    """Steps of single tokens, greedy and with top-p, and which part of the limit they reach."""
    bytes_read = made.read_bytes + count * context * made.kv_token_bytes
    operations = 2 * count * made.read_bytes / made.network.dtype.itemsize
    floor_ms = max(bytes_read / limits["read"] / 1e6, operations / limits["product"] / 1e9)
    for kind, top_p in (("greedy", 1.0), ("top_p", 0.9)):
        batch = decode_batch(made.session.limits, count=count, context=context, top_p=top_p)
        took = median(timed_ms(run, lambda batch=batch: made.session.step(batch)))  # type: ignore[misc]
        at = f"{name}.decode.b{count}.c{context}.{kind}"
        yield figure(at, took, "ms", f"{1e3 * count / took:.0f} tok/s")
        yield figure(f"{at}.of_limit", floor_ms / took, "", f"at least {floor_ms:.3g} ms")
        took = ahead_ms(run, made, batch)
        yield figure(f"{at}.ahead", took, "ms", f"{1e3 * count / took:.0f} tok/s, {floor_ms / took:.2f} of the limit")


def ahead_ms(run: Any, made: Made, batch: TokenBatch, *, times: int = 30) -> float:
    """Milliseconds of a step where each is begun before the tokens of the one before are read."""
    import time

    behind = replace(batch, origins=np.arange(len(batch.token_ids), dtype=np.int32))
    wait = made.session.launch(batch)
    wait()
    wait, steps = made.session.launch(batch), 2 if run.dry else times
    began = time.perf_counter()
    for _ in range(steps):
        following = made.session.launch(behind)
        wait()
        wait = following
    took = 1e3 * (time.perf_counter() - began) / steps
    wait()
    return took


def measure_prompts(name: str, made: Made, run: Any, limits: dict[str, float]) -> Iterator[Figure]:
    """Prompts alone, and lengths that were never seen."""
    config = made.config
    for tokens in DRY_PROMPTS if run.dry else PROMPTS:
        if run.left_s < 2:
            return
        took = median(timed_ms(run, lambda tokens=tokens: read_prompt(made, tokens), times=5))  # type: ignore[misc]
        attended = 2 * tokens**2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
        floor_ms = (2 * tokens * made.layer_numbers + attended) / limits["product"] / 1e9
        yield figure(f"{name}.prefill.{tokens}", took, "ms", f"{1e3 * tokens / took:.0f} tok/s")
        yield figure(f"{name}.prefill.{tokens}.of_limit", floor_ms / took, "", f"at least {floor_ms:.3g} ms")
    lengths = np.random.default_rng(9).permutation(np.arange(20, 60) if run.dry else np.arange(900, 1100))[:UNSEEN]
    took_each = [once_ms(run, made, int(length)) for length in lengths[: 3 if run.dry else UNSEEN]]
    worst = max(took_each) / median(took_each)
    yield figure(f"{name}.unseen.worst", worst, "of the median", f"median {median(took_each):.3g} ms, at most 3")


def once_ms(run: Any, made: Made, length: int) -> float:
    """Milliseconds of a prompt that is read once."""
    import time

    if not run.dry:
        torch.cuda.synchronize()
    began = time.perf_counter()
    read_prompt(made, length)
    return 1e3 * (time.perf_counter() - began)


def read_prompt(made: Made, tokens: int) -> None:
    """A prompt in as few steps as there may be, and its first token."""
    limits = made.session.limits
    for begin in range(0, tokens, limits.max_step_tokens):
        count = min(limits.max_step_tokens, tokens - begin)
        made.session.step(prompt_batch(made, begin, count, beside=0, wanted=begin + count == tokens))


def prompt_batch(
    made: Made, begin: int, count: int, *, beside: int, wanted: bool = True, context: int = 64
) -> TokenBatch:
    """Tokens of a prompt, beside so many sequences with a token each behind a context."""
    limits = made.session.limits
    used, own = -(-(begin + count) // limits.block_tokens), -(-context // limits.block_tokens)
    tables = np.full((1 + beside, max(used, own if beside else 0)), -1, np.int32)
    tables[0, :used] = range(used)
    for row in range(beside):
        tables[1 + row, :own] = range(used + row * own, used + (row + 1) * own)
    rows = 1 + beside if wanted else beside
    starts = np.array([0, *(count + n for n in range(beside + 1))], np.int32)
    return TokenBatch(
        token_ids=np.arange(count + beside, dtype=np.int32) % limits.vocabulary_size,
        positions=np.array([*range(begin, begin + count), *[context - 1] * beside], np.int32),
        starts=starts,
        lengths=np.array([begin + count, *[context] * beside], np.int32),
        block_tables=tables,
        logit_rows=starts[1:][-rows:] - 1 if rows else np.zeros(0, np.int32),
        sampling=DeviceSampling(
            temperatures=np.zeros(rows),
            top_k=np.zeros(rows, np.int64),
            top_p=np.ones(rows),
            min_p=np.zeros(rows),
            points=np.zeros(rows),
        ),
    )


def measure_mixed(name: str, made: Made, run: Any) -> Iterator[Figure]:
    """A chunk of a prompt beside sequences that decode."""
    beside, count = (2, 20) if run.dry else (63, 449)
    batch = prompt_batch(made, 0, count, beside=beside)
    took = median(timed_ms(run, lambda: made.session.step(batch)))
    yield figure(f"{name}.mixed.{beside}+{count}", took, "ms")


def measure_kernels(name: str, made: Made, run: Any) -> Iterator[Figure]:
    """How many kernels a decode step of one row is, and for each layer."""
    batch = decode_batch(made.session.limits, count=1, context=32)
    made.session.step(batch)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU if run.dry else kinds.CUDA]) as profiled:
        made.session.step(batch)
        if not run.dry:
            torch.cuda.synchronize()
    events = profiled.events() or []
    device = torch.autograd.DeviceType.CPU if run.dry else torch.autograd.DeviceType.CUDA
    kernels = [event.name for event in events if event.device_type == device]
    layers = made.config.num_hidden_layers
    unit = "operations" if run.dry else "kernels"
    yield figure(f"{name}.kernels", len(kernels), unit, f"{len(kernels) / layers:.1f} for each of {layers} layers")
